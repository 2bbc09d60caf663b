INSERT OR IGNORE INTO job_artifact(job, hash) VALUES(?1, ?2)
