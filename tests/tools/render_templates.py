"""Renders tests/templates/*.jinja with Jinja2, set up as Transformers sets it up, into *.json beside them.

Usage: python3 tests/tools/render_templates.py   (needs jinja2)
cases.json has the conversations; the file of a template has, for each of them, the text, or what the template raised
(null for what is no refusal in the template's own words, such as a missing field).
"""

import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox

NOW = datetime.datetime(2024, 7, 27, 1, 2, 5)
TEMPLATES = pathlib.Path(__file__).parent.parent / "templates"


def say(role, content, **more):
    return {"role": role, "content": content, **more}


CONVERSATIONS = [
    [say("user", "Hello, how are you?")],
    [say("system", "Be brief."), say("user", "2+2?")],
    [say("user", "  Hi \n"), say("assistant", "Hey.\n"), say("user", "Count to 10!")],
    [say("user", "x"), say("assistant", "<think>\nhm\n</think>\n\nok"), say("user", "y"), say("assistant", "<think>a</think>b")],
    [say("user", ""), say("assistant", ""), say("user", "émoji 👩‍👩‍👧 \"quoted\" <b>&amp;</b> 'x'")],
    [say("system", " s "), say("user", "a", name="ann lee"), say("assistant", "skip"), say("user", "stop here"), say("user", "z")],
    [say("assistant", "I begin."), say("user", "No.")],
    [say("user", "call"), say("tool", "{\"r\": 1}"), say("tool", "two"), say("user", "<tool_response>x</tool_response>")],
]


TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": "Tells <the> weather & \"more\".", "parameters": {
            "type": "object", "properties": {
                "place": {"type": "string", "description": "A place, e.g. Zürich"},
                "days": {"type": "integer", "enum": [1, 3], "default": 1}},
            "required": ["place"]},
        "return": {"type": "string"}}},
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


# Rendered with tools.
TOOL_CONVERSATIONS = [
    [say("user", "Will it rain?")],
    [say("system", "Be brief."), say("user", "Will it rain?")],
    [say("user", "Rain?"), {"role": "assistant", "tool_calls": [call("weather", {"place": "Bern", "days": 3}, id="abcdefghi")]},
     say("tool", "{\"rain\": true}", name="weather", tool_call_id="abcdefghi"), say("assistant", "Yes."), say("user", "Sure?")],
    [say("user", "Both"), {"role": "assistant", "tool_calls": [call("now", {}, id="aaaaaaaaa")]}, say("tool", "12:00", tool_call_id="aaaaaaaaa"),
     {"role": "assistant", "tool_calls": [call("weather", {"place": "é \"x\" <b>", "days": 1}, id="bbbbbbbbb")]},
     say("tool", "sun", tool_call_id="bbbbbbbbb")],
    [say("user", "Think"), say("assistant", "Done.", reasoning_content="Hm,\nso.\n"), say("user", "And?"),
     say("assistant", "Well.", thinking="Aha.")],
]


class Refused(Exception):
    pass


def refuse(message):
    raise Refused(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = NOW.strftime
    return made


def render(template, case):
    try:
        return template.render(
            messages=case["messages"], add_generation_prompt=case["add_generation_prompt"], bos_token="<s>",
            eos_token="</s>", **{"tools": None, "documents": None, **case["args"]},
        )
    except Refused as error:
        return {"raises": str(error)}
    except (jinja2.UndefinedError, TypeError, ValueError):
        return {"raises": None}


def write(name, cases):
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (TEMPLATES / name).write_text(f"[\n{lines}\n]\n")


CASES = [
    {"messages": messages, "add_generation_prompt": add, "args": args}
    for messages in CONVERSATIONS
    for args in [{}, {"enable_thinking": False, "date_string": "1 Jan 2025"}]
    for add in [True, False]
    if add or not args
] + [
    {"messages": messages, "add_generation_prompt": True, "args": {"tools": TOOLS, **more}}
    for messages in TOOL_CONVERSATIONS
    for more in [{}, {"enable_thinking": True}]
]

write("cases.json", CASES)
for path in sorted(TEMPLATES.glob("*.jinja")):
    template = environment().from_string(path.read_text())
    rendered = [render(template, case) for case in CASES]
    write(path.with_suffix(".json").name, rendered)
    print(path.name, len(rendered), sum(isinstance(case, dict) for case in rendered))
