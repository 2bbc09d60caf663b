INSERT INTO task_input(task, position, name, rank, source, output, hash)
VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)
