"""When a GPU counts as idle."""

from gpujob.driver.usage import UsageMeter


def metered(*loads: tuple[int, ...]) -> UsageMeter:
    """A meter with one sample each 15 s: the load of each GPU."""
    meter = UsageMeter()
    for number, sample in enumerate(loads):
        meter.take(tuple((load, 1000) for load in sample), at=100.0 + 15 * number)
    return meter


def test_without_a_sample_nothing_is_told() -> None:
    """A machine whose tools tell no load is never called idle."""
    assert UsageMeter().usage() is None
    assert metered(()).usage() is None


def test_one_sample_without_load_is_no_idleness() -> None:
    """Its length is that between samples, and one sample has none."""
    usage = metered((0,)).usage()

    assert usage is not None
    assert (usage.idle_seconds, usage.idle_samples) == (0, 1)


def test_one_busy_gpu_of_many_is_work() -> None:
    """Idle are all or none."""
    usage = metered((0, 0), (0, 2), (0, 0)).usage()

    assert usage is not None
    assert (usage.idle_seconds, usage.idle_samples) == (15, 1)
    assert usage.gpu_memory_mib == 2000


def test_the_mean_is_of_the_last_minute() -> None:
    """What was before is forgotten; idleness is not."""
    usage = metered((100,), *[(0,)] * 8, (40,)).usage()

    assert usage is not None
    assert usage.gpu_percent == 8
    assert (usage.idle_seconds, usage.idle_samples) == (0, 0)
