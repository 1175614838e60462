"""Messages of Postgres lose the values that they quote, and keep the names, in any language."""

import pytest

from pipesync_postgres.postgres_message import without_values

RAISED = "exec_stmt_raise"
SETTING = "parse_and_validate_value"

# From Postgres's own message catalogs.
NAMING = [
    (
        "22P05",
        'character with byte sequence 0xe6 in encoding "UTF8" has no equivalent in "LATIN1"',
    ),
    (
        "22P05",
        "Zeichen mit Byte-Folge 0xe6 in Kodierung »UTF8« hat keine Entsprechung in »LATIN1«",
    ),
    ("22021", 'invalid byte sequence for encoding "UTF8": 0xff'),
    ("22021", "séquence d'octets invalide pour l'encodage « UTF8 » : 0xff"),
    ("2200H", 'nextval: reached maximum value of sequence "numbers" (10)'),
    ("22001", "value too long for type character varying(3)"),
    ("22003", "integer out of range"),
    ("23505", 'duplicate key value violates unique constraint "customers_pkey"'),
    ("23502", 'null value in column "name" of relation "customers" violates not-null constraint'),
    ("23514", 'new row for relation "customers" violates check constraint "is_good"'),
    ("42P01", 'relation "stripe.customers" does not exist'),
    ("42501", "permission denied for table customers"),
    ("42704", 'type "mood" does not exist'),
    ("42704", 'unrecognized configuration parameter "no.such"'),
    ("28P01", 'password authentication failed for user "writer"'),
    ("3D000", 'database "books" does not exist'),
    (
        "54000",
        'index row size 3000 exceeds btree version 4 maximum 2704 for index "customers_pkey"',
    ),
    ("55000", 'cannot update table "customers" because it does not have a replica identity'),
]


@pytest.mark.parametrize(("sqlstate", "message"), NAMING)
def test_names_are_kept(sqlstate: str, message: str) -> None:
    assert without_values(message, sqlstate=sqlstate, in_function=True) == message


QUOTING = [
    ("22P02", 'invalid input syntax for type integer: "{}"', 'type integer: "..."'),
    ("22P02", "ungültige Eingabesyntax für Typ integer: »{}«", 'Typ integer: "..."'),
    ("22P02", "syntaxe en entrée invalide pour le type integer : « {} »", 'type integer : "..."'),
    ("22P02", "la sintaxis de entrada no es válida para tipo integer: «{}»", 'tipo integer: "..."'),
    ("22P02", 'неверный синтаксис для типа integer: "{}"', 'типа integer: "..."'),
    ("22P02", '无效的类型 integer 输入语法: "{}"', '输入语法: "..."'),
    ("22P02", "ჩანაწერის არასწორი სტრიქონი: {}", 'სტრიქონი: "..."'),
    (
        "22003",
        'value "{}" is out of range for type bigint',
        '"..." is out of range for type bigint',
    ),
    ("22008", 'date/time field value out of range: "{}"', 'out of range: "..."'),
    ("22007", 'invalid value "{}" for "YYYY"', "invalid value"),
    ("22030", "duplicate JSON object key value: {}", 'key value: "..."'),
]
VALUES = ["secret", 'sec"ret', "sec » ret « x", 'secret" and "secret', "se\nc"]


@pytest.mark.parametrize(("sqlstate", "message", "kept"), QUOTING)
@pytest.mark.parametrize("value", VALUES)
def test_values_are_withheld(sqlstate: str, message: str, kept: str, value: str) -> None:
    shown = without_values(message.format(value), sqlstate=sqlstate)
    assert "sec" not in shown
    assert "ret" not in shown
    assert kept in shown


def test_a_truncated_value_is_withheld() -> None:
    assert without_values('bad: "secre', sqlstate="22P02") == 'bad: "..."'


def test_a_settings_name_is_kept_and_its_value_withheld() -> None:
    shown = without_values(
        'invalid value for parameter "work_mem": "secret"', sqlstate="22023", routine=SETTING
    )
    assert shown == 'invalid value for parameter "work_mem": "..."'


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('no cus_2, says "{"a": "secret"}"', 'no cus_2, says "..."'),
        ("can't take 'O'Brien', for it isn't good", "can't take \"...\", for it isn't good"),
        ("the customers' table isn't open", "the customers' table isn't open"),
        ('column "email" lacks', 'column "email" lacks'),
        ('column "email" may not be "secret"', 'column "email" may not be "..."'),
        ("Spalte »email« darf nicht »secret« sein", 'Spalte »email« darf nicht "..." sein'),
        ('not in "LATIN1"', 'not in "LATIN1"'),
    ],
)
def test_known_names_are_kept_in_messages_of_user_functions(message: str, shown: str) -> None:
    for state, routine in (("P0001", RAISED), ("23514", RAISED), ("U0001", None), ("38000", None)):
        assert without_values(message, sqlstate=state, routine=routine, names=["email"]) == shown


def test_a_statement_made_of_text_is_not_quoted() -> None:
    message = 'syntax error at or near "secret"'
    shown = without_values(message, sqlstate="42601", in_function=True)
    assert shown == 'syntax error at or near "..."'
    assert without_values(message, sqlstate="42601", routine="scanner_yyerror") == message


def test_text_that_a_type_cannot_read_is_not_quoted() -> None:
    shown = without_values('syntax error in tsquery: "a b"', sqlstate="42601", routine="makepol")
    assert shown == 'syntax error in tsquery: "..."'


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('bad row (cus_1,"{""id"": ""x"", ""n"": 1}",jenny@example.com,,42)', "bad row (...)"),
        ("bad row (cus_1,jenny@example.com,42) of (id,email)", "bad row (...) of (id,email)"),
        ('bad {"id": "x", "balance": 12345}: drop it', "bad {...}: drop it"),
        ('bad [{"id": 1}, 2]', "bad {...}"),
        ("bad tags {vip,jenny@example.com}", "bad tags {...}"),
        ("no rows (yet)", "no rows (yet)"),
        ("one of two (first, second)", "one of two (first, second)"),
    ],
)
def test_whole_rows_are_withheld_in_messages_of_user_functions(message: str, shown: str) -> None:
    found = without_values(
        message, sqlstate="P0001", routine=RAISED, in_function=True, names={"id", "email"}
    )
    assert found == shown


@pytest.mark.parametrize("sqlstate", ["P0001", "22P02", "23505"])
@pytest.mark.parametrize("introduced", ["'{}'", '"{}"', "(1,{})", '{{"a": "{}"}}', ": {}"])
def test_only_the_beginning_of_a_huge_message_is_kept(sqlstate: str, introduced: str) -> None:
    message = "bad row " + introduced.format("secret" * 20_000)
    shown = without_values(message, sqlstate=sqlstate, routine=RAISED if sqlstate < "P" else None)
    assert shown == 'bad row "..."'
