-- What a list of jobs shows of those that are over stands in their own rows: their tasks, up to 200,000
-- each, need not be counted. Jobs that are not over are counted when npod starts.
ALTER TABLE job ADD COLUMN done INTEGER NOT NULL DEFAULT 0;   -- tasks
ALTER TABLE job ADD COLUMN failed INTEGER NOT NULL DEFAULT 0; -- tasks
UPDATE job SET done = (SELECT count(*) FROM task WHERE task.job = job.id AND task.state = 4),
               failed = (SELECT count(*) FROM task WHERE task.job = job.id AND task.state = 5)
WHERE state > 2;

-- Also counts jobs by state; a row of job may be long.
DROP INDEX job_active;
CREATE INDEX job_state ON job(state);
