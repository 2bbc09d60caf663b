SELECT id, failures FROM task WHERE state = 2
