INSERT OR IGNORE INTO job_after(job, needs) VALUES(?1, ?2)
