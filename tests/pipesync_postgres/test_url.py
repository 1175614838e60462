"""URLs are parsed as libpq parses them."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesync_postgres.url import Host, PostgresUrl, parse_url
from tests.pipesync_postgres import libpq

SECRETS = [
    "a+b",
    "a%2Bb",
    "a%20b",
    "100%25",
    "p#q",
    "p?q",
    "[x]",
    "é",
    "a=b",
    "a;b",
    "a%26b",
    "%40",
]
AS_LIBPQ = [
    "postgresql://",
    "postgres://localhost",
    "postgresql://localhost:5433",
    "postgresql://localhost/mydb",
    "postgresql://user@localhost",
    "postgresql://user:secret@localhost",
    "postgresql://user:@localhost/db",
    "postgresql://:secret@localhost/db",
    "postgresql://other@localhost/otherdb?connect_timeout=10&application_name=my+app",
    "postgresql://host1:123,host2:456/somedb?target_session_attrs=any",
    "postgresql://host1,host2:456,host3/somedb",
    "postgresql:///mydb?host=localhost&port=5433",
    "postgresql://one/db?host=two&user=me&password=a+b&dbname=other",
    "postgresql://[2001:db8::1234]/database",
    "postgresql://[::1]:5433,127.0.0.1/database",
    "postgresql:///db?host=::1",
    "postgresql:///dbname?host=/var/lib/postgresql",
    "postgresql://me@%2Fvar%2Flib%2Fpostgresql/dbname",
    "postgresql://me@%2Fvar%2Flib:5433/dbname",
    "postgresql://h/d?host=one,two&port=1,2",
    "postgresql://h/d?host=one,two&port=7",
    "postgresql://me@:5433/d?host=/tmp",
    "postgresql://h:5433/d?host=one,two",
    "postgresql://h:1,i:2/d?host=one,two",
    "postgresql://h:1/d?host=one&port=2",
    "postgresql://h/d?sslmode=require&sslmode=disable",
    "postgresql://h/d?ssl=true",
    "postgresql://h/my%20db?options=-c%20search_path%3Dx",
    "postgresql://h/d?options=endpoint%3Dep-cool",
    "postgresql://h?application_name=x",
    "postgresql://h/?application_name=x",
    *(f"postgresql://me:{secret}@h:1/d" for secret in SECRETS),
    *(f"postgresql://me@h/d?password={secret}" for secret in SECRETS if "=" not in secret),
]


def _said(url: PostgresUrl) -> dict[str, str]:
    parts = {**url.parameters, "user": url.user, "password": url.password, "dbname": url.database}
    if url.hosts:
        parts["host"] = ",".join(host.name for host in url.hosts)
        parts["port"] = ",".join(str(host.port) for host in url.hosts)
    return {name: value for name, value in parts.items() if value}


def _expected(url: str) -> dict[str, str]:
    found = libpq.read(url)
    assert found is not None, url
    if "host" in found:
        # In libpq, the connection fills in missing parts.
        hosts, ports = found["host"].split(","), found.get("port", "").split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        found["port"] = ",".join(port or "5432" for port in ports)
    # libpq has this default if one is compiled in.
    return {name: value for name, value in found.items() if name in _NAMES}


_NAMES = {
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "options",
    "password",
    "port",
    "sslmode",
    "target_session_attrs",
    "user",
}


@pytest.mark.parametrize("url", AS_LIBPQ)
def test_a_url_is_read_as_libpq_reads_it(url: str) -> None:
    assert _said(parse_url(url)) == _expected(url)


_TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=12)


@given(user=_TEXTS, password=_TEXTS, database=_TEXTS, name=_TEXTS)
def test_percent_encoded_parts_are_decoded(
    user: str, password: str, database: str, name: str
) -> None:
    def encoded(text: str) -> str:
        return quote(text, safe="+!$'()*;")

    url = (
        f"postgresql://{encoded(user)}:{encoded(password)}@h/{encoded(database)}"
        f"?application_name={encoded(name)}"
    )
    read = parse_url(url)
    assert (read.user, read.password, read.database) == (user, password, database)
    assert read.parameters == {"application_name": name}
    assert _said(read) == _expected(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hun/ter2@h/d",
        "postgresql://me:hun:ter2@h:ter2/d",
        "postgresql://me@h:0/d",
        "postgresql://me@h:99999/d",
        "postgresql://me@[::1/d",
        "postgresql://me@h/d%00hunter2",
        "postgresql://me@h/%ffhunter2",
        "postgresql://one,,two/d",
        "postgresql://h/d?host=a,b,c&port=1,2",
        "mysql://hunter2@h/d",
    ],
)
def test_an_invalid_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match=r"must|cannot|has|names") as caught:
        parse_url(url)
    assert "ter2" not in str(caught.value)


def test_an_unencoded_character_is_accepted_where_libpq_fails() -> None:
    assert parse_url("postgresql://me@azure:p@ss@h/d").hosts == (Host(name="h"),)
    assert parse_url("postgresql://me@azure:p@ss@h/d").user == "me@azure"
    assert parse_url("postgresql://me@azure:p@ss@h/d").password == "p@ss"
    assert parse_url("postgresql://me:100%@h/d").password == "100%"
    assert parse_url(" postgresql://me@h/d\n").database == "d"
    assert parse_url("postgresql:///d?host=one:1,two:2").hosts == (
        Host(name="one", port=1),
        Host(name="two", port=2),
    )


def test_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(parse_url("postgresql://me:hunter2@h/d?sslpassword=hunter2"))


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        (f"postgresql://{'%41' * 75_000}", "has 225013 characters: at most 8192 are taken"),
        (f"postgresql://{','.join('h' * 101)}/d", "names 101 hosts: at most 100 are taken"),
        (f"postgresql:///d?host={','.join('h' * 101)}", "names 101 hosts: at most 100 are taken"),
    ],
)
def test_the_size_of_a_url_is_limited(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_url(url)


def test_a_url_may_name_a_hundred_hosts() -> None:
    assert len(parse_url(f"postgresql://{','.join('h' * 100)}/d").hosts) == 100
