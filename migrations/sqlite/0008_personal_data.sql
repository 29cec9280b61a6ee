-- Names, address lines, telephone numbers, email addresses and notes are stored encrypted when privacy.mode is encrypt. An
-- encrypted text begins with the character U+0010, which no other text holds; of an address all of them stand together
-- in first_name, and the other columns are empty. What is stored as plain text stays as it is.

-- One row a data key; a user has at most one that is not destroyed. `wrapped` is the key, encrypted by the
-- key-encryption key `kek_id`; null once it is destroyed, and with it all that it encrypted. A copy of this table
-- that is older than an erasure undoes it: keep backups of it apart, and for a short time only.
CREATE TABLE user_keys (
    key_id       INTEGER NOT NULL PRIMARY KEY,
    user_id      BLOB    NOT NULL,
    kek_id       TEXT    NOT NULL,
    wrapped      BLOB,
    created_at   INTEGER NOT NULL,
    destroyed_at INTEGER,
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX user_keys_live ON user_keys (user_id) WHERE destroyed_at IS NULL;

-- What tells two key-encryption keys of one name apart, so that nobody encrypts by a wrong one.
CREATE TABLE kek_proofs (
    kek_id TEXT    NOT NULL PRIMARY KEY,
    proof  BLOB    NOT NULL,
    since  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who had whose personal data erased, when and why.
CREATE TABLE erasures (
    user_id   BLOB    NOT NULL,
    at        INTEGER NOT NULL,
    principal TEXT    NOT NULL,
    wanted_by TEXT    NOT NULL,
    reason    TEXT    NOT NULL,
    keys      INTEGER NOT NULL,
    PRIMARY KEY (user_id, at)
) STRICT, WITHOUT ROWID;
