"""Errors report everything that is wrong with a request, in texts that can be sent."""

import pytest
from google.rpc import code_pb2

from pipesync_rpc.errors import FieldViolation, InvalidRequest, RpcError, Violations


def unknown(field: str) -> RpcError:
    return RpcError(
        f"there is no {field}",
        code=code_pb2.NOT_FOUND,
        reason="UNKNOWN_CONNECTOR",
        field_violations=[FieldViolation(field, "is unknown")],
    )


def fail(error: Exception) -> None:
    raise error


def raised(violations: Violations) -> RpcError:
    with pytest.raises(RpcError) as caught:
        violations.raise_if_any()
    return caught.value


def test_a_valid_request_raises_nothing() -> None:
    violations = Violations()
    with violations.collect():
        pass
    violations.raise_if_any()


def test_all_bad_fields_are_named_once() -> None:
    violations = Violations([FieldViolation("id", "is required")])
    for _ in range(2):
        with violations.collect():
            fail(InvalidRequest([FieldViolation("type", "is wrong")]))
    with violations.collect():
        fail(unknown("source.type"))
    error = raised(violations)
    assert (error.code, error.reason) == (code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert [one.field for one in error.field_violations] == ["id", "type", "source.type"]


def test_errors_of_one_reason_are_joined() -> None:
    violations = Violations()
    for field in ("source.type", "destination.type", "source.type"):
        with violations.collect():
            fail(unknown(field))
    error = raised(violations)
    assert (error.code, error.reason) == (code_pb2.NOT_FOUND, "UNKNOWN_CONNECTOR")
    assert error.message == "there is no source.type; there is no destination.type"
    assert [one.field for one in error.field_violations] == ["source.type", "destination.type"]


def test_errors_of_one_code_are_joined_under_the_first_reason() -> None:
    violations = Violations()
    with violations.collect():
        fail(
            RpcError(
                "there is no pipeline",
                code=code_pb2.NOT_FOUND,
                reason="PIPELINE_NOT_FOUND",
                field_violations=[FieldViolation("id", "is unknown")],
            )
        )
    with violations.collect():
        fail(unknown("overrides.source.type"))
    error = raised(violations)
    assert (error.code, error.reason) == (code_pb2.NOT_FOUND, "PIPELINE_NOT_FOUND")
    assert error.message == "there is no pipeline; there is no overrides.source.type"
    assert [one.field for one in error.field_violations] == ["id", "overrides.source.type"]


def test_a_field_that_two_checks_find_is_named_once_however_it_is_found() -> None:
    violations = Violations()
    with violations.collect():
        fail(InvalidRequest([FieldViolation("api_key", "keeps no secret")]))
    with violations.collect():
        # As another server answers.
        fail(
            RpcError(
                "api_key: must begin with sk_; port: is required",
                code=code_pb2.INVALID_ARGUMENT,
                field_violations=[
                    FieldViolation("api_key", "must begin with sk_"),
                    FieldViolation("port", "is required"),
                ],
            )
        )
    error = raised(violations)
    assert error.field_violations == (
        FieldViolation("api_key", "keeps no secret"),
        FieldViolation("port", "is required"),
    )


def test_an_error_of_another_kind_is_raised_unchanged() -> None:
    violations = Violations()
    error = RpcError("away", code=code_pb2.UNAVAILABLE, reason="ENGINE_UNAVAILABLE")
    with violations.collect():
        fail(error)
    assert raised(violations) is error


def test_an_internal_error_is_not_gathered() -> None:
    with pytest.raises(ZeroDivisionError), Violations().collect():
        fail(ZeroDivisionError())


def test_checks_that_depend_on_a_bad_field_are_skipped() -> None:
    violations = Violations([FieldViolation("pipeline.source.config", "is wrong")])
    reached = False
    with violations.collect():
        violations.skip_if_invalid("pipeline.source")
        reached = True
    assert not reached
    assert not violations.includes("pipeline.sourc")
    assert [one.field for one in raised(violations).field_violations] == ["pipeline.source.config"]


def test_a_repeated_input_is_truncated_and_can_be_sent() -> None:
    text = "\0\ud800" + 1_000_000 * "x"
    error = RpcError(
        text, metadata={"id": text}, field_violations=[FieldViolation(text, text)] * 1000
    )
    shown = [error.message, str(error), error.metadata["id"]]
    shown += [one.field for one in error.field_violations]
    shown += [one.description for one in error.field_violations]
    assert len(error.field_violations) == 100
    for one in shown:
        assert one.startswith("\\0\\ud800")
        assert one.encode()
        assert len(one) < 4200
