-- Everything npod must not forget. Times named *_ms are wall time and for people; leases, back-off and
-- time limits run on monotonic time in memory.
--
-- job.state:  0 pending, 1 running, 2 held, 3 done, 4 failed, 5 cancelled
-- task.state: 0 waiting (for other tasks), 1 ready, 2 delayed (back-off), 3 running, 4 done, 5 failed,
--             6 cancelled

CREATE TABLE meta(
    key TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO meta(key, value) VALUES('epoch', 1);

CREATE TABLE job(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,       -- the client's: a resend finds the same job
    name TEXT NOT NULL,
    recipe TEXT NOT NULL,
    spec TEXT NOT NULL,             -- canonical JSON, artifacts instead of paths
    constraints TEXT,               -- JSON object, or NULL
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    workers INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    time_limit_s INTEGER NOT NULL,  -- 0: none
    any_class INTEGER NOT NULL,
    class TEXT,                     -- numeric class, from the first allocation on
    tasks INTEGER NOT NULL,
    steps INTEGER NOT NULL,         -- optimizer steps in all, 0: no training
    rounds INTEGER NOT NULL,
    step INTEGER NOT NULL,          -- optimizer steps done: at submission, and when it is over
    first_event INTEGER NOT NULL,   -- no event of this job has a lower seq
    submitted_ms INTEGER NOT NULL,
    started_ms INTEGER,
    ended_ms INTEGER,
    running_ms INTEGER,             -- when it began to run, while it runs
    used_ms INTEGER NOT NULL,       -- time run before that
    error TEXT
);
CREATE INDEX job_active ON job(id) WHERE state <= 2;

-- Jobs that must be done before `job` starts; a row goes when that has happened.
CREATE TABLE job_after(
    job INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
    needs INTEGER NOT NULL,
    PRIMARY KEY(job, needs)
) WITHOUT ROWID;
CREATE INDEX job_after_needs ON job_after(needs);

-- Artifacts that the job file names.
CREATE TABLE job_artifact(
    job INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
    hash TEXT NOT NULL,
    PRIMARY KEY(job, hash)
) WITHOUT ROWID;

CREATE TABLE task(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    round INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    shards INTEGER NOT NULL,
    world INTEGER NOT NULL,     -- ranks, all or nothing
    step_end INTEGER NOT NULL,  -- optimizer steps done after it; 0: trains nothing
    params TEXT NOT NULL,       -- JSON object
    state INTEGER NOT NULL,
    waiting INTEGER NOT NULL,   -- tasks it needs that are not done
    attempt INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0, -- attempts lost with their worker
    worker INTEGER NOT NULL DEFAULT 0, -- of rank 0, the last one
    changed INTEGER NOT NULL DEFAULT 0, -- seq of the last event
    result TEXT,                -- JSON of rank 0
    error TEXT
);
CREATE INDEX task_of_job ON task(job, id);
CREATE INDEX task_ready ON task(job, id) WHERE state = 1;

CREATE TABLE task_dep(
    needs INTEGER NOT NULL REFERENCES task(id) ON DELETE CASCADE,
    task INTEGER NOT NULL REFERENCES task(id) ON DELETE CASCADE,
    PRIMARY KEY(needs, task)
) WITHOUT ROWID;
CREATE INDEX task_dep_task ON task_dep(task);

-- Either hash, or output `output` of task `source`.
CREATE TABLE task_input(
    task INTEGER NOT NULL REFERENCES task(id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    rank INTEGER NOT NULL, -- the rank that reads it, -1: every one
    source INTEGER,
    output TEXT,
    hash TEXT,
    PRIMARY KEY(task, position)
) WITHOUT ROWID;

CREATE TABLE output(
    task INTEGER NOT NULL REFERENCES task(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    rank INTEGER NOT NULL,
    hash TEXT NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY(task, name)
) WITHOUT ROWID;

-- Ranks of the current attempt of a gang that are done.
CREATE TABLE task_rank(
    task INTEGER NOT NULL REFERENCES task(id) ON DELETE CASCADE,
    rank INTEGER NOT NULL,
    PRIMARY KEY(task, rank)
) WITHOUT ROWID;

-- What the ranks of an attempt tell each other before they can talk directly.
CREATE TABLE rendezvous(
    task INTEGER NOT NULL REFERENCES task(id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL, -- base64
    PRIMARY KEY(task, attempt, key)
) WITHOUT ROWID;

-- A worker holds at most one place in an allocation and at most one rank of one task.
CREATE TABLE worker(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    boot INTEGER NOT NULL,  -- 0: gone
    device TEXT NOT NULL,
    class TEXT NOT NULL,
    build TEXT NOT NULL,
    threads INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    labels TEXT NOT NULL,   -- JSON object
    seen_ms INTEGER NOT NULL,
    job INTEGER NOT NULL,   -- 0: in no allocation
    place INTEGER NOT NULL, -- 0 .. job.workers - 1
    task INTEGER NOT NULL,  -- 0: free
    attempt INTEGER NOT NULL,
    rank INTEGER NOT NULL
);

-- A row is made when an upload is opened, before anything refers to it.
CREATE TABLE artifact(
    hash TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    state INTEGER NOT NULL,     -- 0 arriving or lost, 1 there, 2 being removed
    is_folder INTEGER NOT NULL, -- its bytes are a manifest
    touched_ms INTEGER NOT NULL,
    refs INTEGER NOT NULL DEFAULT 0 -- rows of output, job_artifact, pin, artifact_child; by triggers
) WITHOUT ROWID;
CREATE INDEX artifact_garbage ON artifact(touched_ms) WHERE refs = 0;

-- Files of a manifest.
CREATE TABLE artifact_child(
    parent TEXT NOT NULL REFERENCES artifact(hash) ON DELETE CASCADE,
    child TEXT NOT NULL,
    PRIMARY KEY(parent, child)
) WITHOUT ROWID;

-- Keeps an artifact that nothing refers to yet: for an attempt of a task, or for a client.
CREATE TABLE pin(
    hash TEXT NOT NULL,
    task INTEGER NOT NULL,  -- 0: a client's
    boot INTEGER NOT NULL,  -- 0: a task's
    attempt INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL, -- 0: with the attempt
    PRIMARY KEY(hash, task, boot)
) WITHOUT ROWID;
CREATE INDEX pin_task ON pin(task) WHERE task <> 0;
CREATE INDEX pin_boot ON pin(boot) WHERE boot <> 0;

CREATE TRIGGER output_added AFTER INSERT ON output BEGIN
    UPDATE artifact SET refs = refs + 1 WHERE hash = NEW.hash;
END;
CREATE TRIGGER output_changed AFTER UPDATE OF hash ON output BEGIN
    UPDATE artifact SET refs = refs - 1 WHERE hash = OLD.hash;
    UPDATE artifact SET refs = refs + 1 WHERE hash = NEW.hash;
END;
CREATE TRIGGER output_removed AFTER DELETE ON output BEGIN
    UPDATE artifact SET refs = refs - 1 WHERE hash = OLD.hash;
END;
CREATE TRIGGER job_artifact_added AFTER INSERT ON job_artifact BEGIN
    UPDATE artifact SET refs = refs + 1 WHERE hash = NEW.hash;
END;
CREATE TRIGGER job_artifact_removed AFTER DELETE ON job_artifact BEGIN
    UPDATE artifact SET refs = refs - 1 WHERE hash = OLD.hash;
END;
CREATE TRIGGER artifact_child_added AFTER INSERT ON artifact_child BEGIN
    UPDATE artifact SET refs = refs + 1 WHERE hash = NEW.child;
END;
CREATE TRIGGER artifact_child_removed AFTER DELETE ON artifact_child BEGIN
    UPDATE artifact SET refs = refs - 1 WHERE hash = OLD.child;
END;
CREATE TRIGGER pin_added AFTER INSERT ON pin BEGIN
    UPDATE artifact SET refs = refs + 1 WHERE hash = NEW.hash;
END;
CREATE TRIGGER pin_removed AFTER DELETE ON pin BEGIN
    UPDATE artifact SET refs = refs - 1 WHERE hash = OLD.hash;
END;

-- seq is never used again: the row with the highest one is never deleted.
CREATE TABLE event(
    seq INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    job INTEGER NOT NULL,
    task INTEGER NOT NULL,
    kind TEXT NOT NULL,
    text TEXT
);

-- Replies of the last requests of every process, a row for each commit; server/dedup.c describes the
-- body. Read as a whole at a start, written anew when it has grown.
CREATE TABLE request_log(
    id INTEGER PRIMARY KEY,
    body TEXT NOT NULL
);
