INSERT INTO task_dep(needs, task) VALUES(?1, ?2)
