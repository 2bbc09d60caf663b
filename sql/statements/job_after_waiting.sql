SELECT job FROM job_after WHERE needs = ?1
