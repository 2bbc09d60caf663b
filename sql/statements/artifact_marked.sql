SELECT hash FROM artifact WHERE state = 2
