-- The catalog of format 1. FORMAT.md says what the rows mean.
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE commits (id INTEGER PRIMARY KEY, time TEXT NOT NULL, verb TEXT NOT NULL, arguments TEXT NOT NULL,
  versions TEXT NOT NULL, counts TEXT NOT NULL, seconds REAL NOT NULL) STRICT;
CREATE TABLE digests (commit_id INTEGER NOT NULL REFERENCES commits(id), name TEXT NOT NULL,
  rows INTEGER NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY (commit_id, name)) STRICT, WITHOUT ROWID;
CREATE TABLE sources (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE COLLATE NOCASE,
  kind TEXT NOT NULL) STRICT;
CREATE TABLE contents (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 16),
  width INTEGER, height INTEGER) STRICT;
CREATE TABLE items (id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE CHECK (length(key) = 16),
  source INTEGER NOT NULL REFERENCES sources(id), locator TEXT NOT NULL, size INTEGER, mtime_ns INTEGER) STRICT;
CREATE TABLE states (item INTEGER NOT NULL REFERENCES items(id) ON DELETE CASCADE,
  content INTEGER NOT NULL REFERENCES contents(id), file_sha256 BLOB, decoder TEXT NOT NULL,
  added_in INTEGER NOT NULL REFERENCES commits(id),
  removed_in INTEGER REFERENCES commits(id) CHECK (removed_in > added_in),
  PRIMARY KEY (item, added_in)) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX states_live ON states(item) WHERE removed_in IS NULL;
CREATE INDEX states_content ON states(content);
CREATE TABLE columns (name TEXT PRIMARY KEY COLLATE NOCASE, type TEXT NOT NULL CHECK (type IN ('TEXT','INTEGER','REAL')),
  origin TEXT NOT NULL, added_in INTEGER NOT NULL REFERENCES commits(id)) STRICT, WITHOUT ROWID;
CREATE TABLE metadata (item INTEGER NOT NULL REFERENCES items(id) ON DELETE CASCADE,
  added_in INTEGER NOT NULL REFERENCES commits(id),
  removed_in INTEGER REFERENCES commits(id) CHECK (removed_in > added_in),
  PRIMARY KEY (item, added_in)) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX metadata_live ON metadata(item) WHERE removed_in IS NULL;
CREATE TABLE spaces (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE COLLATE NOCASE,
  fingerprint BLOB NOT NULL UNIQUE CHECK (length(fingerprint) = 32), passport TEXT NOT NULL,
  dim INTEGER NOT NULL CHECK (dim > 0), layout TEXT NOT NULL DEFAULT 'one-per-content',
  added_in INTEGER NOT NULL REFERENCES commits(id)) STRICT;
CREATE TABLE shards (id INTEGER PRIMARY KEY AUTOINCREMENT, space INTEGER NOT NULL REFERENCES spaces(id),
  sha256 BLOB NOT NULL CHECK (length(sha256) = 32), rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL,
  added_in INTEGER NOT NULL REFERENCES commits(id),
  removed_in INTEGER REFERENCES commits(id) CHECK (removed_in > added_in)) STRICT;
CREATE UNIQUE INDEX shards_live ON shards(space, sha256) WHERE removed_in IS NULL;
CREATE TABLE tasks (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL COLLATE NOCASE,
  kind TEXT NOT NULL CHECK (kind IN ('binary','multi-class','multi-label')),
  classes TEXT NOT NULL, positive TEXT, provenance TEXT NOT NULL,
  added_in INTEGER NOT NULL REFERENCES commits(id),
  removed_in INTEGER REFERENCES commits(id) CHECK (removed_in > added_in)) STRICT;
CREATE UNIQUE INDEX tasks_live ON tasks(name) WHERE removed_in IS NULL;
CREATE TABLE labels (task INTEGER NOT NULL REFERENCES tasks(id) ON DELETE CASCADE,
  item INTEGER NOT NULL REFERENCES items(id) ON DELETE CASCADE,
  class TEXT NOT NULL, value REAL NOT NULL, split TEXT CHECK (split IN ('train','val','test')),
  PRIMARY KEY (task, item, class)) STRICT, WITHOUT ROWID;
CREATE INDEX labels_item ON labels(item);
CREATE TABLE models (id INTEGER PRIMARY KEY AUTOINCREMENT, task INTEGER NOT NULL REFERENCES tasks(id),
  space INTEGER NOT NULL REFERENCES spaces(id), sha256 BLOB NOT NULL, record TEXT NOT NULL,
  added_in INTEGER NOT NULL REFERENCES commits(id),
  removed_in INTEGER REFERENCES commits(id) CHECK (removed_in > added_in)) STRICT;
CREATE TABLE seen (model INTEGER NOT NULL REFERENCES models(id) ON DELETE CASCADE,
  item INTEGER NOT NULL REFERENCES items(id) ON DELETE CASCADE, PRIMARY KEY (model, item)) STRICT, WITHOUT ROWID;
CREATE INDEX seen_item ON seen(item);
CREATE TABLE failures (item INTEGER NOT NULL REFERENCES items(id) ON DELETE CASCADE,
  space INTEGER REFERENCES spaces(id), stage TEXT NOT NULL, reason TEXT NOT NULL, attempts INTEGER NOT NULL,
  commit_id INTEGER NOT NULL REFERENCES commits(id)) STRICT;
CREATE UNIQUE INDEX failures_one ON failures(item, ifnull(space, 0));
