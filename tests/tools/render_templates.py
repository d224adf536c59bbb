"""Renders tests/templates/*.jinja with Jinja2, set up as Transformers sets it up, into *.json beside them.

Usage: python3 tests/tools/render_templates.py   (needs jinja2)
A case of the output has messages, add_generation_prompt, args and either text or raises.
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


for path in sorted(TEMPLATES.glob("*.jinja")):
    template = environment().from_string(path.read_text())
    cases = []
    for messages in CONVERSATIONS:
        for args in [{}, {"enable_thinking": False, "date_string": "1 Jan 2025"}]:
            for add in [True, False]:
                if args and not add:
                    continue
                case = {"messages": messages, "add_generation_prompt": add, "args": args}
                try:
                    case["text"] = template.render(
                        messages=messages, add_generation_prompt=add, bos_token="<s>", eos_token="</s>",
                        tools=None, documents=None, **args,
                    )
                except Refused as error:
                    case["raises"] = str(error)
                cases.append(case)
    path.with_suffix(".json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
    print(path.name, len(cases))
