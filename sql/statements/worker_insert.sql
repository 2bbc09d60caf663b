INSERT INTO worker(name, boot, device, class, build, threads, memory_bytes, labels, seen_ms, job, place,
                   task, attempt, rank)
VALUES(?1, 0, '', '', '', 0, 0, '{}', 0, 0, 0, 0, 0, 0)
