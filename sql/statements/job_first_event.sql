SELECT first_event FROM job WHERE id = ?1
