DELETE FROM request_log
