SELECT needs FROM job_after WHERE job = ?1
