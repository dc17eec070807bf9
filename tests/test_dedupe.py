import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from logplex.dedupe import GENERATIONS, Duplicate, First, Outcome, Pending, Row, Window, hash_body

BODY = b"36 <13>1 2026-01-01T00:00:00Z h t p - x"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shuttle_frame(code: str, count: int, app: str = "web") -> bytes:
    text = (
        f"<172>1 2026-01-01T00:00:0{count}+00:00 heroku {app} log-shuttle - - Error {code}: {count} messages dropped"
    )
    return f"{len(text)} {text}".encode()


def store(window: Window, principal: str, request_id: str, body: bytes) -> First:
    first = window.begin(principal, request_id, body)
    assert isinstance(first, First)
    window.keep(first)
    return first


def test_a_repeat_is_the_same_principal_id_and_body(clock: Clock) -> None:
    window = Window(300, 1000, clock=clock)
    store(window, "t.1", "id", BODY)
    assert window.begin("t.1", "id", BODY) == Duplicate()
    assert window.duplicates == 1
    for other in (("t.2", "id", BODY), ("t.1", "id2", BODY), ("t.1", "id", BODY + b"y")):
        assert isinstance(window.begin(*other), First)


def test_the_same_id_with_another_body_is_counted_and_each_of_its_bodies_remembered(clock: Clock) -> None:
    window = Window(300, 1000, clock=clock)
    bodies = [b"%d" % n for n in range(20)]
    for body in bodies:
        store(window, "t.1", "correlation", body)
        clock.now += 10
    assert window.other_bodies == 19
    for body in bodies:
        assert window.begin("t.1", "correlation", body) == Duplicate()


def test_principal_and_id_do_not_run_into_each_other(clock: Clock) -> None:
    window = Window(300, 1000, clock=clock)
    store(window, "a", "bc", BODY)
    assert isinstance(window.begin("ab", "c", BODY), First)


def test_any_text_is_an_id(clock: Clock) -> None:
    window = Window(300, 1000, clock=clock)
    for request_id in ("ü", "\udcff", "x" * 10_000, "\x00"):
        store(window, "t.1", request_id, BODY)
        assert window.begin("t.1", request_id, BODY) == Duplicate()


def test_leading_loss_frames_of_log_shuttle_are_no_part_of_the_body() -> None:
    plain = hash_body(BODY)
    assert hash_body(shuttle_frame("L12", 3) + BODY) == plain
    assert hash_body(shuttle_frame("L13", 4) + shuttle_frame("L12", 5, "other") + BODY) == plain
    assert hash_body(BODY + shuttle_frame("L12", 3)) != plain
    assert hash_body(shuttle_frame("L14", 3) + BODY) != plain


@pytest.mark.parametrize("at", [0, 1023, 1024, 1025, 9999])
def test_one_byte_makes_another_body_wherever_it_is(at: int) -> None:
    body = bytes(range(250)) * 40
    assert hash_body(body) != hash_body(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
    assert hash_body(body) != hash_body(body[:at])
    assert hash_body(body) != hash_body(body + body[at : at + 1])


@pytest.mark.parametrize("cut", range(1, len(shuttle_frame("L12", 3))))
def test_a_loss_frame_that_is_cut_off_is_part_of_the_body(cut: int) -> None:
    assert hash_body(shuttle_frame("L12", 3)[:cut]) != hash_body(b"")


def test_a_loss_frame_with_a_count_below_its_own_head_is_part_of_the_body() -> None:
    assert hash_body(b"9" + shuttle_frame("L12", 3)[2:]) != hash_body(b"")


def test_a_second_request_waits_for_the_outcome_of_the_first(clock: Clock) -> None:
    window = Window(300, 1000, clock=clock)
    told: list[Outcome] = []
    first = window.begin("t.1", "id", BODY)
    assert isinstance(first, First)
    for _ in range(2):
        second = window.begin("t.1", "id", BODY)
        assert isinstance(second, Pending)
        second.when_done(told.append)
    window.forget(first)
    assert told == [Outcome.FORGOTTEN, Outcome.FORGOTTEN]
    again = window.begin("t.1", "id", BODY)
    assert isinstance(again, First)
    third = window.begin("t.1", "id", BODY)
    assert isinstance(third, Pending)
    third.when_done(told.append)
    window.keep(again)
    assert told[2:] == [Outcome.KEPT]
    assert window.begin("t.1", "id", BODY) == Duplicate()
    assert window.duplicates == 2


def test_an_id_is_held_for_the_window_and_at_most_an_eighth_more(clock: Clock) -> None:
    window = Window(300, 1000, clock=clock)
    for n in range(100):
        store(window, "t.1", str(n), BODY)
        clock.now += 7
    assert window.ids <= 300 * (1 + 1 / GENERATIONS) / 7 + 1
    clock.now += 300 * (1 + 1 / GENERATIONS)
    assert isinstance(window.begin("t.1", "99", BODY), First)
    assert window.ids == 0


def test_a_full_table_forgets_its_oldest_eighth_and_says_so_once(clock: Clock) -> None:
    said: list[float] = []
    window = Window(300, 800, clock=clock, on_shortened=said.append)
    for n in range(2000):
        store(window, "t.1", str(n), BODY)
        clock.now += 0.01
        assert window.ids <= 800
    assert said == [pytest.approx(7.01, abs=0.1)]
    assert window.begin("t.1", "1300", BODY) == Duplicate()
    clock.now += 400
    for n in range(2000):
        store(window, "t.1", str(n), BODY)
    assert len(said) == 2


def test_rows_that_were_stored_are_known_after_a_restart_with_their_age(clock: Clock) -> None:
    window = Window(300, 1000, clock=clock)
    rows: list[Row] = []
    for n in range(40):
        rows.append(store(window, "t.1", str(n), BODY).row(wall=5000.0 + clock.now))
        clock.now += 10
    assert all(len(digest) == 16 for digest, _ in rows)

    later = Clock()
    later.now = 3.0
    restarted = Window(300, 1000, clock=later)
    restarted.load(reversed(rows), wall=5000.0 + clock.now)
    for n in range(10, 40):
        assert restarted.begin("t.1", str(n), BODY) == Duplicate()
    assert isinstance(restarted.begin("t.1", "9", BODY), First)
    later.now += 340
    assert isinstance(restarted.begin("t.1", "39", BODY), First)


def test_rows_from_the_future_are_held_and_a_full_load_keeps_the_newest(clock: Clock) -> None:
    said: list[float] = []
    window = Window(300, 80, clock=clock, on_shortened=said.append)
    rows = [First(n, 7).row(wall=float(n)) for n in range(200)]
    window.load(rows, wall=150.0)
    assert window.ids <= 80
    assert len(said) == 1


class Model(RuleBasedStateMachine):
    """The window against a list that never forgets; it may hold an id longer, by an eighth, but not shorter."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.window = Window(100, 10_000, clock=self.clock)
        self.kept: dict[tuple[str, bytes], float] = {}
        self.rows: list[Row] = []
        self.open: dict[tuple[str, bytes], First] = {}

    @rule(request_id=st.sampled_from("abc"), body=st.sampled_from([b"", b"1", b"2"]))
    def begin(self, request_id: str, body: bytes) -> None:
        key = (request_id, body)
        result = self.window.begin("p", request_id, body)
        age = self.clock.now - self.kept.get(key, float("-inf"))
        if key in self.open:
            assert isinstance(result, Pending)
            assert result.first is self.open[key]
        elif age <= 100:
            assert isinstance(result, Duplicate)
        elif age > 100 * (1 + 1 / GENERATIONS):
            assert isinstance(result, First)
        if isinstance(result, First):
            self.open[key] = result

    @precondition(lambda self: self.open)
    @rule(data=st.data(), kept=st.booleans())
    def end(self, data: st.DataObject, kept: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.open)))
        first = self.open.pop(key)
        told: list[Outcome] = []
        waiting = self.window.begin("p", *key)
        assert isinstance(waiting, Pending)
        waiting.when_done(told.append)
        if kept:
            self.window.keep(first)
            self.kept[key] = self.clock.now
            self.rows.append(first.row(self.clock.now))
        else:
            self.window.forget(first)
        assert told == [Outcome.KEPT if kept else Outcome.FORGOTTEN]

    @rule(seconds=st.sampled_from([0.5, 5.0, 12.5, 30.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(down=st.sampled_from([0.0, 3.0, 60.0]))
    def restart(self, down: float) -> None:
        self.clock.now += down
        self.open.clear()
        self.window = Window(100, 10_000, clock=self.clock)
        self.window.load(self.rows, wall=self.clock.now)


TestModel = Model.TestCase
