SELECT job, needs FROM job_after ORDER BY job, needs
