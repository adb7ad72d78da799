"""Who may do what in your service. Copy these for rules of your own."""

from .realtime.live import Live


async def test_users_may_send_to_each_other(live: Live) -> None:
    alice, bob = await live.connect("alice"), await live.connect("bob")
    assert (await alice.ask(type="send", to=bob.user, data="hello"))["type"] == "ok"
    assert (await bob.receive("message"))["data"] == "hello"
# {% if cookiecutter.rooms %}


async def test_everybody_may_join_and_publish(live: Live) -> None:
    alice, bob = await live.connect("alice"), await live.connect("bob")
    for client in (alice, bob):
        assert (await client.ask(type="join", room="lobby"))["type"] == "ok"
    assert (await alice.ask(type="publish", room="lobby", data="hello"))["type"] == "ok"
    assert (await bob.receive("message"))["data"] == "hello"
# {% endif %}
