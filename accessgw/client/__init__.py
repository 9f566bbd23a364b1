"""The reference SDK: one sans-IO core, a Twisted face and an asyncio face."""
