SELECT coalesce(sum(size), 0), count(*) FROM artifact WHERE state = 1
