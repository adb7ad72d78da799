async def test_without_the_permission_to_take_tickets_a_service_ends(tmp_path: Path) -> None:
    async with run_valkey() as valkey, Redis.from_url(valkey.url) as redis:
        await do(valkey, redis, "ACL SETUSER default -getdel")
        await check_end(valkey, tmp_path, "the user lacks a permission")
