"""What waits for a kernel: counted until it is gone, and only where it was taken of a share."""

from drains.rendered import Rendered
from drains.unsent import Unsent


class Holder:
    def give_up_rendered(self) -> None:
        raise AssertionError("nobody was asked to make room")


def made(total: int = 100) -> tuple[Rendered, Unsent]:
    rendered = Rendered(total, total)
    return rendered, Unsent(rendered, Holder(), 1)


async def test_what_is_held_counts_until_the_kernel_has_all_of_it() -> None:
    rendered, unsent = made()
    assert not unsent
    assert len(unsent) == 0
    assert rendered.try_take(1, 7)
    unsent.keep(b"0123456789", 3)
    assert unsent
    assert unsent.counts
    assert bytes(unsent.rest or b"") == b"3456789"
    unsent.took(0)
    unsent.took(5)
    assert (len(unsent), rendered.used) == (2, 7)  # the bytes are one object until the end
    unsent.took(2)
    assert not unsent
    assert rendered.used == 0


async def test_what_is_let_go_is_given_back_once() -> None:
    rendered, unsent = made()
    rendered.force(1, 10)
    unsent.keep(b"0123456789", 0)
    unsent.let_go()
    unsent.let_go()
    unsent.took(3)
    assert not unsent
    assert rendered.used == 0


async def test_the_rest_of_a_frame_counts_as_nothing_and_may_be_empty() -> None:
    rendered, unsent = made(0)
    unsent.keep_uncounted(b"rest")
    assert not unsent.counts
    unsent.took(4)
    assert not unsent
    unsent.keep_uncounted(b"")
    assert unsent, "the kernel has to take something again first"
    unsent.took(0)
    assert not unsent
    assert rendered.used == 0
