use super::Reference;

fn sixty_four(c: &str) -> String {
    c.repeat(64)
}

#[test]
fn registry_and_path_are_told_apart_as_the_engine_does() {
    for (text, registry, repository, familiar) in [
        ("debian", "docker.io", "library/debian", "debian:latest"),
        ("test_com", "docker.io", "library/test_com", "test_com:latest"),
        ("factory/pump:2", "docker.io", "factory/pump", "factory/pump:2"),
        ("docker.io/debian", "docker.io", "library/debian", "debian:latest"),
        ("index.docker.io/library/debian", "docker.io", "library/debian", "debian:latest"),
        ("docker.io/library/foo/bar", "docker.io", "library/foo/bar", "library/foo/bar:latest"),
        ("test.com:5000", "docker.io", "library/test.com", "test.com:5000"),
        ("test.com/repo:tag", "test.com", "repo", "test.com/repo:tag"),
        ("test:5000/repo", "test:5000", "repo", "test:5000/repo:latest"),
        ("localhost/pump", "localhost", "pump", "localhost/pump:latest"),
        ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000", "repo", "192.168.1.1:5000/repo:5050"),
        ("[2001:db8::1]:5000/repo:tag", "[2001:db8::1]:5000", "repo", "[2001:db8::1]:5000/repo:tag"),
        ("[::1]/repo", "[::1]", "repo", "[::1]/repo:latest"),
        ("xn--n3h.com/my:xn--n3h.com", "xn--n3h.com", "my", "xn--n3h.com/my:xn--n3h.com"),
        ("foo/foo_bar.com:8080", "docker.io", "foo/foo_bar.com", "foo/foo_bar.com:8080"),
        ("dock__er/docker---rules", "docker.io", "dock__er/docker---rules", "dock__er/docker---rules:latest"),
        ("lowercase:Uppercase", "docker.io", "library/lowercase", "lowercase:Uppercase"),
        ("Reg.Example/x", "Reg.Example", "x", "Reg.Example/x:latest"),
    ] {
        let reference: Reference = text.parse().expect(text);
        assert_eq!((reference.registry(), reference.repository()), (registry, repository), "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        let canonical = reference.canonical();
        assert!(canonical.starts_with(&format!("{registry}/{repository}:")), "{canonical}");
        for form in [canonical, reference.familiar()] {
            let again: Reference = form.parse().expect("its own form");
            assert_eq!(again.familiar(), familiar);
        }
    }
}

#[test]
fn tags_and_digests() {
    let digest = sixty_four("a");
    let both: Reference = format!("busybox:1@sha256:{digest}").parse().expect("both");
    assert_eq!((both.tag(), both.pulled_tag()), (Some("1"), None));
    assert_eq!(both.canonical(), format!("docker.io/library/busybox:1@sha256:{digest}"));
    assert_eq!(both.to_string(), format!("busybox:1@sha256:{digest}"));
    let tagged: Reference = "busybox:1".parse().expect("a tag");
    assert_eq!(tagged.at(both.digest().expect("a digest")), both);
    let neither: Reference = "busybox".parse().expect("neither");
    assert_eq!((neither.tag(), neither.pulled_tag(), neither.digest()), (None, Some("latest"), None));
    assert_eq!(neither.to_string(), "busybox");
}

#[test]
fn what_is_no_reference_is_told_why() {
    let long_name = format!("{}a", "a/".repeat(128));
    let long_tag = format!("a:{}", "t".repeat(129));
    let upper_digest = format!("a@sha256:{}", sixty_four("A"));
    let odd_digest = format!("a@sha256:+{}", "a".repeat(63));
    let sha512 = format!("a@sha512:{}", sixty_four("a").repeat(2));
    let (id, endless) = (sixty_four("a"), "x".repeat(1 << 20));
    for (text, what) in [
        ("", "empty"),
        (":tag", "part of its name is empty"),
        ("@sha256:aa", "64 lower-case"),
        ("docker/", "empty"),
        ("a//b", "empty"),
        ("a:", "no tag"),
        ("a:.b", "no tag"),
        ("a:b:c", "no tag"),
        ("a:b/c", "not the address of a registry"),
        ("Debian:12", "upper-case"),
        ("reg.example/Pump", "upper-case"),
        ("Factory/pump", "upper-case"),
        ("https://github.com/docker/docker", "begins with `https://`"),
        ("a b", "white space"),
        ("a\n", "white space"),
        ("$upstream:8000/x", "parent gateway"),
        ("${REGISTRY}/x:1", "placeholder"),
        ("<registry>/x", "placeholder"),
        ("-docker/docker", "no part of a name"),
        ("docker-/docker", "no part of a name"),
        ("docker/dock..er", "no part of a name"),
        ("docker/dock_.er", "no part of a name"),
        ("a___b", "no part of a name"),
        ("____/____", "no part of a name"),
        ("dock..er/docker", "not the address of a registry"),
        ("aa/asdf^/aa", "no part of a name"),
        ("pump\u{e9}", "no part of a name"),
        ("-docker.io/docker", "not the address of a registry"),
        ("user:pw/x", "not the address of a registry"),
        ("host:99999/x", "not the address of a registry"),
        ("host:/x", "not the address of a registry"),
        ("fc00::1:5000/debian", "not the address of a registry"),
        ("[fe80::1%eth0]:5000/debian", "not the address of a registry"),
        ("[::192.0.2.33]:5000/debian", "not the address of a registry"),
        ("[::1]x/debian", "not the address of a registry"),
        ("[fc00::1]", "no part of a name"),
        (&id, "image's id"),
        (&long_name, "more than 255"),
        (&long_tag, "more than 128"),
        (&upper_digest, "64 lower-case"),
        (&odd_digest, "64 lower-case"),
        (&sha512, "no SHA-256 digest"),
        (&endless, "longer than 512"),
    ] {
        let error = text.parse::<Reference>().expect_err(text);
        assert!(error.message.contains(what), "{text}: {error}");
        assert!(error.hint.is_some() && error.message.len() < 2000, "{text}: {error:?}");
    }
}

#[test]
fn cut_or_changed_anywhere_it_has_an_answer() {
    let whole = format!("registry.example:5000/factory/pump-reader:1.4@sha256:{}", sixty_four("6"));
    for at in 0..=whole.len() {
        let _ = whole[..at].parse::<Reference>();
        for other in ["/", ":", "@", "[", "]", ".", "\u{1f433}", "\0"] {
            let changed = format!("{}{other}{}", &whole[..at], &whole[at..]);
            if let Ok(reference) = changed.parse::<Reference>() {
                assert_eq!(reference.to_string().parse(), Ok(reference), "{changed}");
            }
        }
    }
}

#[test]
fn edge_agent_refuses_a_tag_beside_a_digest() {
    let digest = sixty_four("b");
    for (text, taken) in [
        ("x".to_owned(), true),
        ("reg.example:5000/a/x:1".to_owned(), true),
        (format!("a.example/x@sha256:{digest}"), true),
        (format!("a.example/x:1@sha256:{digest}"), false),
    ] {
        let reference: Reference = text.parse().expect("a reference");
        assert_eq!(reference.is_taken_by_edge_agent(), taken, "{text}");
    }
}

#[test]
fn as_a_string_in_documents() {
    let reference: Reference = serde_json::from_str("\"docker.io/library/debian:12\"").expect("reads");
    assert_eq!(serde_json::to_string(&reference).expect("writes"), "\"debian:12\"");
    let error = serde_json::from_str::<Reference>("\"Debian\"").expect_err("refused").to_string();
    assert!(error.contains("upper-case") && error.contains("debian"), "{error}");
}
