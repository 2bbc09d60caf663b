INSERT INTO rendezvous(task, attempt, key, value) VALUES(?1, ?2, ?3, ?4)
ON CONFLICT DO UPDATE SET value = ?4
