"""The steady clock: it follows the wall clock, but a step ahead counts only after a day."""

from headrace.kernel.time import now_micros
from headrace.kernel.uptime import SteadyClock, steady_micros, uptime_micros

SECOND, HOUR = 1_000_000, 3_600_000_000
START = 1_800_000_000_000_000


class Machine:
    """A machine whose wall clock is wrong by so much."""

    def __init__(self):
        self.uptime, self.wrong = 5 * HOUR, 0

    def read_wall(self):
        return START + self.uptime + self.wrong

    def read_uptime(self):
        return self.uptime

    def clock(self, state=None):
        return SteadyClock(self.read_wall, self.read_uptime, state)


def test_a_step_ahead_and_back_does_not_move_it():
    machine = Machine()
    clock = machine.clock()
    machine.uptime, machine.wrong = 6 * HOUR, 24 * HOUR
    assert clock.now() == START + 6 * HOUR
    machine.uptime, machine.wrong = 7 * HOUR, 0
    assert clock.now() == START + 7 * HOUR


def test_a_step_ahead_counts_after_a_day_however_often_one_looks():
    machine = Machine()
    clock = machine.clock()
    machine.wrong = 2 * HOUR
    seen = []
    for _ in range(26):
        clock = machine.clock(clock.state)  # as another process
        seen.append(clock.now() - machine.read_wall())
        machine.uptime += HOUR
    assert seen == [-2 * HOUR] * 24 + [0, 0]


def test_a_step_back_counts_at_once_and_the_way_ahead_again_does_not():
    machine = Machine()
    clock = machine.clock()
    machine.wrong = -HOUR
    assert clock.now() == machine.read_wall()
    machine.wrong = 0
    assert clock.now() == machine.read_wall() - HOUR


def test_it_follows_a_clock_that_is_corrected_slowly():
    machine = Machine()
    clock = machine.clock()
    for _ in range(100):
        machine.uptime, machine.wrong = machine.uptime + HOUR, machine.wrong + SECOND // 2
        assert clock.now() == machine.read_wall()


def test_the_clock_of_this_process_is_the_wall_clock_here():
    before, uptime = now_micros(), uptime_micros()
    assert before - SECOND <= steady_micros() <= now_micros()
    assert uptime <= uptime_micros()
