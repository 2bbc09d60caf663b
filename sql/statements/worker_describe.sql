UPDATE worker SET boot = ?2, device = ?3, class = ?4, build = ?5, threads = ?6, memory_bytes = ?7,
                  labels = ?8
WHERE id = ?1
