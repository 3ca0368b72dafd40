use super::{Route, Sink, parse};

fn good(text: &str) -> Route {
    parse(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"))
}

#[test]
fn what_edge_hub_takes() {
    for text in [
        "FROM /messages/* INTO $upstream",
        "from /* into $UPSTREAM",
        "SELECT * FROM /messages/modules/a/outputs/* INTO $upstream",
        "FROM /messages/modules/sim-1/outputs/out_1 WHERE temperature > 30 AND $body.x.y <> 'a b' INTO $upstream",
        "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream",
        "FROM /messages/* WHERE (a = \"x\\\"y\" OR {$systemProp} != null) INTO $upstream",
        "FROM /messages/* WHERE -1.5e3 < as_number(b) AND concat(a, 'b', c) = 0x1F INTO $upstream",
        "FROM /twinChangeNotifications INTO brokeredendpoint('/modules/m/inputs/i/')",
        "FROM /messages/modules/a/* INTO BrokeredEndpoint(\"modules/b/inputs/c\")",
    ] {
        assert_eq!(good(text).ignored, None, "{text}");
    }
}

#[test]
fn what_edge_hub_refuses() {
    for (text, says) in [
        ("", "it ends where FROM"),
        ("/messages/* INTO $upstream", "`/` stands where FROM"),
        ("FROM messages INTO $upstream", "`messages` stands where a source"),
        ("FROM /messages/modules/<FROM_MODULE_NAME>/outputs INTO $upstream", "`<` stands where a name"),
        ("FROM /messages/* INTO upstream", "`upstream` stands where $upstream"),
        ("FROM /messages/*", "it ends where WHERE or INTO"),
        ("FROM /messages/* WHERE a == 1 INTO $upstream", "`=` stands where a property"),
        ("FROM /messages/* WHERE a = 'x INTO $upstream", "a string has no end"),
        ("FROM /messages/* WHERE f(1 INTO $upstream", "`INTO` stands where `,` or `)`"),
        ("FROM /messages/* WHERE a b INTO $upstream", "`b` stands where INTO, or an operator"),
        ("FROM /messages/* INTO BrokeredEndpoint(/modules/a/inputs/b)", "`/` stands where \"/modules"),
        ("FROM /messages/* INTO BrokeredEndpoint(\"/modules/a/b\")", "not of the form"),
        ("FROM /messages/* INTO BrokeredEndpoint(' ')", "not of the form"),
        ("FROM /messages/* INTO BrokeredEndpoint('/modules/a/inputs/\\uts')", "a string has no end"),
        ("FROM /messages/modules/5/* INTO $upstream", "`5` stands where a name"),
    ] {
        let fault = parse(text).expect_err(text);
        assert!(fault.message.contains(says), "{text}: {fault:?}");
        assert!(fault.span.end <= text.len(), "{text}: {fault:?}");
    }
}

#[test]
fn what_a_route_says() {
    let route = good(
        "FROM /messages/modules/sensor/outputs/t WHERE Lower(a) = 'b' INTO BrokeredEndpoint(\"/modules/filter/inputs/in\") WHERE x",
    );
    assert_eq!(route.from_module(), Some("sensor"));
    assert_eq!(route.sink, Sink::Module { module: "filter".into(), input: "in".into(), documented: true });
    assert_eq!((route.functions, route.ignored.as_deref()), (vec!["Lower".to_owned()], Some("WHERE x")));
    let odd = good("FROM /* INTO BrokeredEndpoint('/module/a/input/b')").sink;
    assert_eq!(odd, Sink::Module { module: "a".into(), input: "b".into(), documented: false });
    assert_eq!(good("FROM /messages/modules/*/outputs/t INTO $upstream").from_module(), None);
}

#[test]
fn any_text_has_an_answer() {
    let good = "SELECT * FROM /a/*/é WHERE NOT f($b.c[1], {$d}) <= -1.5e+3 || 'x\\u0041' INTO BrokeredEndpoint(\"/modules/a/inputs/b\")";
    for (at, c) in good.char_indices() {
        for new in ["", "\"", "'", "\\", "(", "/*", "*/", "$", "e5", "é", "\u{0}"] {
            let changed = format!("{}{new}{}", &good[..at], &good[at + c.len_utf8()..]);
            if let Err(fault) = parse(&changed) {
                assert!(fault.span.end <= changed.len(), "{changed}");
            }
        }
    }
    let deep = format!("FROM /a WHERE {}1{} INTO $upstream", "(".repeat(3000), ")".repeat(3000));
    assert!(parse(&deep).expect_err("too deep").message.contains("nested"));
    let minus = format!("FROM /a WHERE {}1 INTO $upstream", "- ".repeat(2000));
    assert!(parse(&minus).is_ok());
    assert!(parse(&"x".repeat(9000)).is_err());
}
