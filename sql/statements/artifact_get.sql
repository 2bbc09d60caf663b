SELECT size, state, is_folder FROM artifact WHERE hash = ?1
