DELETE FROM job_after WHERE needs = ?1
