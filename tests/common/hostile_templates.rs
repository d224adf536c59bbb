//! Chat templates that must end in a typed error, natively and on the smaller stack of wasm.

/// What is wrong, and the template.
pub(crate) fn all() -> Vec<(&'static str, String)> {
    let nest = |open: &str, inner: &str, close: &str| open.repeat(5000) + inner + &close.repeat(5000);
    // Just within the parser's own limit: the deepest that anybody can make the engine go.
    let calls = "{% macro m(n) %}{{ m(n + ((((((((((1)))))))))))) }}{% endmacro %}{{ m(0) }}";
    let list = [
        ("unterminated tag", "{% if x"),
        ("tag without an inside", "{%}"),
        ("unterminated block", "{% for m in messages %}x"),
        ("unknown tag", "{% frobnicate %}"),
        ("unknown filter", "{{ 'x' | no_such_filter }}"),
        ("recursion", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
        ("recursion with arguments", calls),
        (
            "recursion by two",
            "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        ),
        ("recursive loop", "{% for m in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
        ("giant range", "{% for i in range(1000000000) %}x{% endfor %}"),
        ("giant string", "{{ 'x' * 10000000000 }}"),
        ("steps", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        (
            "flood",
            "{% for a in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' * 40 }}{% endfor %}",
        ),
        ("missing attribute", "{{ nothing.at.all }}"),
        ("include", "{% include 'other' %}"),
        ("import", "{% import 'other' as o %}{{ o.x }}"),
    ];
    let mut all: Vec<(&str, String)> = list.map(|(what, source)| (what, source.to_string())).to_vec();
    all.push(("deep parentheses", nest("{{ (", "1", ")") + " }}"));
    all.push(("deep brackets", format!("{{{{ {} }}}}", nest("[", "1", "]"))));
    all.push(("deep signs", format!("{{{{ {}x.y.z }}}}", "-".repeat(5000))));
    all.push(("deep sum", format!("{{{{ x{} }}}}", "+1".repeat(5000))));
    all.push(("deep filters", format!("{{{{ 1{} }}}}", "|trim".repeat(5000))));
    all.push(("deep choice", format!("{{{{ 1{} }}}}", " if x else 1".repeat(5000))));
    all.push(("deep branches", format!("{{% if x %}}{}{{% endif %}}", "{% elif y %}".repeat(5000))));
    // As deep as is accepted, ending in an error of their own: the stack must suffice.
    all.push(("signs within the limit", format!("{{{{ {}x.y.z }}}}", "-".repeat(490))));
    all.push(("negations within the limit", format!("{{{{ {}x.y.z }}}}", "not ".repeat(490))));
    all.push(("sum within the limit", format!("{{{{ x.y{} }}}}", "+1".repeat(490))));
    all.push(("filters within the limit", format!("{{{{ x.y.z{} }}}}", "|trim".repeat(490))));
    all.push(("choice within the limit", format!("{{{{ x.y.z{} }}}}", " if x.y.z else 1".repeat(80))));
    let branches = "{% elif none %}".repeat(199);
    all.push((
        "branches within the limit",
        format!("{{% if none %}}{branches}{{% else %}}{{{{ x.y }}}}{{% endif %}}"),
    ));
    all.push(("deep negation", format!("{{{{ {}1 }}}}", "not ".repeat(5000))));
    all.push(("deep blocks", nest("{% if true %}", "", "{% endif %}")));
    all.push(("deep loops", nest("{% for m in [1] %}", "", "{% endfor %}")));
    all
}
