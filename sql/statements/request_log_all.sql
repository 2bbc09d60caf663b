SELECT body FROM request_log ORDER BY id
