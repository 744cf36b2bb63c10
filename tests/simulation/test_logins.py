"""The login for an image's registry is in memory until the rent, and no longer."""

from tests.simulation.model import Chance
from tests.simulation.world import NAMESPACE, World, play

from gpujob.api.transport import RegistryLogin

LOGIN = RegistryLogin.model_validate(
    {"registry": "ghcr.io", "username": "robot", "password": "password"}
)


def node_uid(world: World) -> str | None:
    """The uid of the first attempt's node; None = there is none yet."""
    node = world.kube.objects.get(("GpuNode", NAMESPACE, "train-0-1"))
    return node["metadata"]["uid"] if node else None


def test_a_login_that_comes_after_the_rent_is_dropped() -> None:
    """A driver sends it once more if the watch was behind when it asked what to do."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), seed=0, run_seconds=600, exit_codes=(0,))
        await world.apply("train")
        await world.until(lambda: world.reason("train") == "Running", 600)
        (leader,) = (one for one in world.replicas if one.lock.is_held)
        uid = node_uid(world)
        assert uid is not None
        leader.logins[uid] = LOGIN
        await world.until(lambda: not leader.logins, 60)

        assert world.reason("train") == "Running"
        await world.end()

    play(life)


def test_a_login_is_kept_until_the_rent() -> None:
    """Else a private image could never be rented for."""

    async def life() -> None:
        world = World(Chance(0, level=0.0), seed=0, run_seconds=60, exit_codes=(0,))
        await world.apply("train", imagePullSecret={"name": "pulls", "exposeToProvider": True})
        await world.until(lambda: node_uid(world) is not None, 600)
        uid = node_uid(world)
        await world.go_on(120)
        assert not world.living(), "nothing is rented without it"
        (leader,) = (one for one in world.replicas if one.lock.is_held)
        assert uid is not None
        leader.logins[uid] = LOGIN
        await world.until(world.is_over, 3600)

        assert world.reason("train") == "Complete"
        assert leader.logins == {}
        await world.end()

    play(life)
