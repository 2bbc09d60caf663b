-- CROSS JOIN: not by way of every task.
SELECT task.id FROM job CROSS JOIN task ON task.job = job.id WHERE job.state <= 2 AND task.state = 2
