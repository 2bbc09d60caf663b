"""Fails when docs/protocol.md and proto/messages.def do not speak of the same messages."""
import re
import sys

root = sys.argv[1]
rows = re.findall(r'^NPO_MESSAGE\(\d+, (\w+), "(\w+)"', open(f"{root}/proto/messages.def").read(), re.M)
page = open(f"{root}/docs/protocol.md").read()
messages = page[page.index("## Messages of workers"):]
# A message is set in bold at the start of its paragraph: **hold** or in a list of several.
described = set(re.findall(r"\*\*(\w+)\*\*", messages))
known = {name for _, name in rows}
problems = [f"'{name}' has no row in messages.def" for name in sorted(described - known)]
problems += [f"'{name}' is not described in protocol.md" for name in sorted(known - described)]
problems += [f"row {upper} is called '{name}'" for upper, name in rows if upper.lower() != name]
print("\n".join(problems) or f"{len(known)} messages agree")
sys.exit(bool(problems))
