SELECT id, name, boot, device, class, build, threads, memory_bytes, labels, seen_ms, job, place, task,
       attempt, rank
FROM worker ORDER BY id
