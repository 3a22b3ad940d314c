from tests.features.views import DAY, HOUR, MINUTE, view_of_all_functions

from headrace.features.online.tiles import Tiles, pack_state, unpack_state

NOW = 1_760_000_000_000_000


def test_unreachable_tiles_are_dropped_by_the_wall_clock():
    tiles = Tiles(view_of_all_functions((HOUR,)))
    state, sizes = tiles.empty(), []
    for step in range(60):
        now = NOW + step * 10 * MINUTE
        state = unpack_state(
            pack_state(tiles.add(state, [now - MINUTE], [[step % 3], [1.5], ["a"], [1]], {0: step + 1}, now))
        )
        sizes.append(len(pack_state(state)))
    # The state does not grow beyond an hour's tiles and the unsettled events.
    assert max(sizes[20:]) <= max(sizes[:20])
    state = tiles.add(state, [], [[], [], [], []], {0: 61}, NOW + 2 * DAY)
    assert state == tiles.empty()._replace(offsets={0: 61})


def test_a_settled_burst_is_one_tile():
    tiles = Tiles(view_of_all_functions((HOUR, DAY)))
    times = list(range(NOW, NOW + 1000))
    columns = [[1] * 1000, [0.1] * 1000, ["a"] * 1000, [0] * 1000]
    state = tiles.add(tiles.empty(), times, columns, {0: 1000}, NOW + MINUTE)
    assert len(state.times) == 1000
    state = tiles.add(state, [], [[], [], [], []], {0: 1001}, NOW + 6 * MINUTE)
    assert state.times == []
    assert {len(part) for track in state.tracks for part in track} == {1}
    row = dict(
        zip(
            (aggregation.name for aggregation in tiles.view.aggregations),
            tiles.values(state, tiles.windows(NOW + 7 * MINUTE)),
            strict=True,
        )
    )
    assert (row["count_number_60"], row["sum_amount_60"], row["last_n_word_60"]) == (1000, 100.0, ["a"] * 3)
