-- What reads an output of ?1, behind task ?2.
SELECT task.id, task.state, task.waiting FROM task_dep JOIN task ON task.id = task_dep.task
WHERE task_dep.needs = ?1 AND task_dep.task > ?2 ORDER BY task_dep.task
