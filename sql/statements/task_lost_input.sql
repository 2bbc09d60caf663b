-- Tasks that made the lost artifact ?1 and whose output is still wanted: the job is not over and some
-- task that reads it is not done. CROSS JOIN: in this order.
SELECT DISTINCT t.id FROM output AS o CROSS JOIN task AS t ON t.id = o.task JOIN job AS j ON j.id = t.job
CROSS JOIN task_dep AS d ON d.needs = t.id CROSS JOIN task AS c ON c.id = d.task
CROSS JOIN task_input AS i ON i.task = c.id AND i.source = t.id AND i.output = o.name
WHERE o.hash = ?1 AND t.state = 4 AND j.state <= 2 AND c.state <> 4
