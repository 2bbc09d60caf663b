INSERT INTO request_log(body) VALUES(?1)
