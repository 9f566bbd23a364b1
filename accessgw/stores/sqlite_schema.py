"""Opening a store's file: its lock, its connections, its tables and how older ones become today's."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

APPLICATION_ID = 0x61676777
"""Says in the file's header that it is ours ("aggw")."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # epoch, head and floor as in StreamState; kept counts the rows of push
        """CREATE TABLE stream (number INTEGER PRIMARY KEY, scope TEXT NOT NULL, id TEXT NOT NULL, biz TEXT NOT NULL,
            epoch INTEGER NOT NULL, head INTEGER NOT NULL, floor INTEGER NOT NULL, kept INTEGER NOT NULL)""",
        "CREATE UNIQUE INDEX stream_key ON stream (scope, id, biz)",
        # times are wall-clock microseconds everywhere
        """CREATE TABLE push (number INTEGER PRIMARY KEY, stream INTEGER NOT NULL, seq INTEGER NOT NULL,
            appended_at INTEGER NOT NULL, expires_at INTEGER, priority INTEGER NOT NULL, collapse TEXT,
            visibility TEXT, body BLOB NOT NULL)""",
        "CREATE UNIQUE INDEX push_place ON push (stream, seq)",
        "CREATE INDEX push_age ON push (appended_at)",
        "CREATE INDEX push_ttl ON push (expires_at) WHERE expires_at IS NOT NULL",
        "CREATE INDEX push_collapse ON push (stream, collapse) WHERE collapse IS NOT NULL",
        "CREATE TABLE request (key TEXT NOT NULL, digest BLOB NOT NULL, places TEXT NOT NULL, at INTEGER NOT NULL)",
        "CREATE UNIQUE INDEX request_key ON request (key)",
        "CREATE INDEX request_age ON request (at)",
        """CREATE TABLE cursor (device TEXT NOT NULL, scope TEXT NOT NULL, id TEXT NOT NULL, biz TEXT NOT NULL,
            epoch INTEGER NOT NULL, seq INTEGER NOT NULL)""",
        "CREATE UNIQUE INDEX cursor_key ON cursor (device, scope, id, biz)",
        "CREATE TABLE subscription (device TEXT NOT NULL, topic TEXT NOT NULL)",
        "CREATE UNIQUE INDEX subscription_key ON subscription (device, topic)",
        # call_id is unsigned in 64 bits; the row holds the same bits as a signed number
        """CREATE TABLE claim (number INTEGER PRIMARY KEY, device TEXT NOT NULL, user TEXT NOT NULL,
            call_id INTEGER NOT NULL, digest BLOB NOT NULL, answered INTEGER NOT NULL, claimed_at INTEGER NOT NULL)""",
        "CREATE UNIQUE INDEX claim_key ON claim (device, user, call_id)",
        "CREATE INDEX claim_age ON claim (claimed_at)",
        """CREATE TABLE event (number INTEGER PRIMARY KEY, device TEXT NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL,
            user TEXT NOT NULL, event TEXT NOT NULL, at INTEGER NOT NULL, reason TEXT NOT NULL)""",
        "CREATE INDEX event_device ON event (device)",
        "CREATE TABLE mark (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    ),
    # devices whose last event, delivered or not, was a connect
    ("CREATE TABLE connected (device TEXT PRIMARY KEY, user TEXT NOT NULL)",),
    (
        # expiry in microseconds, NULL: never
        """CREATE TABLE mqtt_session (number INTEGER PRIMARY KEY, client TEXT NOT NULL, user TEXT NOT NULL,
            version INTEGER NOT NULL, expiry INTEGER, disconnected_at INTEGER)""",
        "CREATE UNIQUE INDEX mqtt_session_key ON mqtt_session (client)",
        """CREATE TABLE mqtt_subscription (session INTEGER NOT NULL, filter TEXT NOT NULL, qos INTEGER NOT NULL,
            no_local INTEGER NOT NULL, as_published INTEGER NOT NULL, handling INTEGER NOT NULL,
            identifier INTEGER NOT NULL, PRIMARY KEY (session, filter)) WITHOUT ROWID""",
        # packet ids of a client that it has not released
        """CREATE TABLE mqtt_received (session INTEGER NOT NULL, packet_id INTEGER NOT NULL,
            PRIMARY KEY (session, packet_id)) WITHOUT ROWID""",
        # bodies of queued messages, one for all queues
        """CREATE TABLE mqtt_message (number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL,
            qos INTEGER NOT NULL, retain INTEGER NOT NULL, properties BLOB, at INTEGER NOT NULL, expires_at INTEGER,
            publisher TEXT NOT NULL)""",
        # message is NULL once the client has said PUBREC; shared: other rows may have the same message
        """CREATE TABLE mqtt_queue (session INTEGER NOT NULL, number INTEGER NOT NULL, message INTEGER,
            shared INTEGER NOT NULL, qos INTEGER NOT NULL, packet_id INTEGER NOT NULL, retain INTEGER NOT NULL,
            identifiers TEXT, size INTEGER NOT NULL, expires_at INTEGER, PRIMARY KEY (session, number)) WITHOUT ROWID""",
        "CREATE INDEX mqtt_queue_shared ON mqtt_queue (message) WHERE shared = 1",
        "CREATE INDEX mqtt_queue_expiry ON mqtt_queue (expires_at) WHERE expires_at IS NOT NULL AND packet_id = 0",
        """CREATE TABLE mqtt_will (number INTEGER PRIMARY KEY, client TEXT NOT NULL, topic TEXT NOT NULL,
            payload BLOB NOT NULL, qos INTEGER NOT NULL, retain INTEGER NOT NULL, properties BLOB,
            delay INTEGER NOT NULL, due_at INTEGER)""",
        "CREATE UNIQUE INDEX mqtt_will_key ON mqtt_will (client)",
        """CREATE TABLE mqtt_retained (number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL,
            qos INTEGER NOT NULL, retain INTEGER NOT NULL, properties BLOB, at INTEGER NOT NULL, expires_at INTEGER,
            publisher TEXT NOT NULL)""",
        "CREATE UNIQUE INDEX mqtt_retained_key ON mqtt_retained (topic)",
        "CREATE INDEX mqtt_retained_expiry ON mqtt_retained (expires_at) WHERE expires_at IS NOT NULL",
    ),
    (
        # where header codecs of a device stood, for its next connection; app_table is the table's digest
        """CREATE TABLE header_state (number INTEGER PRIMARY KEY, device TEXT NOT NULL, user TEXT NOT NULL,
            app_table BLOB NOT NULL, direction TEXT NOT NULL, checkpoint INTEGER NOT NULL, state BLOB NOT NULL,
            boot INTEGER NOT NULL, counter INTEGER NOT NULL, at INTEGER NOT NULL)""",
        "CREATE UNIQUE INDEX header_state_key ON header_state (device, user, app_table, direction, checkpoint)",
        "CREATE INDEX header_state_age ON header_state (at)",
    ),
    (
        # facts: everything but the content, as JSON
        "CREATE TABLE dictionary (number INTEGER PRIMARY KEY, facts TEXT NOT NULL, content BLOB NOT NULL)",
        # ids of the dictionaries that were in force together, a JSON list
        "CREATE TABLE dictionary_bundle (number INTEGER PRIMARY KEY, ids TEXT NOT NULL)",
        "CREATE UNIQUE INDEX dictionary_bundle_key ON dictionary_bundle (ids)",
    ),
)
"""Statements that lead from one schema version (PRAGMA user_version) to the next; the first makes an empty file."""


class StoreError(Exception):
    """A store that cannot be opened; the message begins with its path."""


class FileLock:
    """Keeps a second process from owning the same store.

    It lies on a file beside the store: closing any descriptor of the store's own file would drop
    the locks that SQLite holds on it.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> None:
        """Raises StoreError when another process (or another store here) holds it."""
        name = f"{self._path}.lock"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"{self._path}: cannot open the lock file {name}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreError(f"{self._path}: in use by process {owner or 'unknown'}; a store has one owner") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_writer(path: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> sqlite3.Connection:
    """The connection that writes, its file made or brought to today's schema.

    Raises StoreError for a file that is damaged, foreign or newer than this program.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened: {error.strerror}") from None
    connection = _connect(path, "rw")
    try:
        _check_owner(path, connection, len(migrations))
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StoreError(f"{path}: the file system does not support SQLite's write-ahead log")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -32768")
        migrate(connection, migrations)
        _check_tables(connection)
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(f"{path}: not a usable store: {error}") from None
    except StoreError:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    connection = _connect(path, "ro")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA cache_size = -16384")
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # opened on the thread that starts the store, used by one thread of its own from then on
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(
        uri, uri=True, timeout=10.0, isolation_level=None, check_same_thread=False, cached_statements=512
    )


def _check_owner(path: Path, connection: sqlite3.Connection, newest: int) -> None:
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if owner != APPLICATION_ID and (owner or version or tables):
        raise StoreError(f"{path}: a SQLite database of another program, expected a store of accessgw")
    if version > newest:
        raise StoreError(
            f"{path}: its schema has version {version}, this program knows up to {newest}; run the newer one"
        )


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """Run what leads from the file's version to the newest, each step in a transaction of its own."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for number, statements in enumerate(migrations[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _check_tables(connection: sqlite3.Connection) -> None:
    """Touch the first and the last leaf of every table: finds a truncated file without reading it all."""
    for name, sql in connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall():
        columns = ["rowid"]
        if sql.endswith("WITHOUT ROWID"):
            key = connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (name,))
            columns = [column for (column,) in key.fetchall()]
        for direction in ("ASC", "DESC"):
            order = ", ".join(f"{column} {direction}" for column in columns)
            connection.execute(f"SELECT * FROM {name} ORDER BY {order} LIMIT 1").fetchall()
