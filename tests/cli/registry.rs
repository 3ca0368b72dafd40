//! Images out of a real registry: Debian's docker-registry behind TLS, filled by skopeo.

use std::path::Path;

use edgepress::error::problem;
use edgepress::event::Silent;
use edgepress::oci::config::Config;
use edgepress::oci::reference::Reference;
use edgepress::registry::{Registry, RegistryOptions, Resolved, take};
use edgepress::store::Store;
use edgepress::units::{Arch, Digest};
use tempfile::TempDir;

use crate::support::registry::{self as real, Door, PASSWORD, USER, layout, redirecting, run};

const LOGIN: Option<(&str, &str)> = Some((USER, PASSWORD));

struct World {
    real: real::Registry,
    folder: TempDir,
    store: Store,
    index: Digest,
}

impl World {
    /// A registry with an image at these names, and an empty store.
    fn new(door: Door, names: &[&str], zstd: bool) -> Self {
        let (real, folder) = (real::Registry::start(door), TempDir::new().expect("a folder"));
        let image = folder.path().join("image");
        let index = layout(&image, 3, zstd);
        names.iter().for_each(|name| real.push(&image, name));
        let store = Store::open(Some(folder.path().join("store"))).expect("a store");
        Self { real, folder, store, index }
    }

    fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.real.address).parse().expect("a reference")
    }

    /// All of an image into the store.
    fn pull(&self, name: &str, login: Option<(&str, &str)>, arch: Arch) -> anyhow::Result<Resolved> {
        let registry = Registry::new(self.real.options(login))?;
        let found = registry.resolve(&self.reference(name), arch, &self.store)?;
        registry.fetch(&[(&found.reference, found.blobs().collect())], &self.store, "images", &Silent)?;
        Ok(found)
    }

    fn refused(&self, name: &str, login: Option<(&str, &str)>) -> String {
        let error = self.pull(name, login, Arch::X86_64).expect_err("refused");
        let hint = problem(&error).and_then(|problem| problem.hint.clone()).expect("a hint");
        assert!(!format!("{error:?}{hint}").contains(PASSWORD), "{error:?}");
        format!("{error:#}\n{hint}")
    }

    fn assert_whole(&self, found: &Resolved) {
        for blob in found.blobs() {
            let path = self.store.blob(&blob.digest).expect("in the store");
            assert_eq!(Digest::of_file(&path).expect("reads"), blob.digest, "{}", blob.media_type);
        }
    }
}

#[test]
fn an_image_behind_tls_and_a_password() {
    let world = World::new(Door::Basic, &["factory/pump:1"], true);
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let found = world.pull("factory/pump:1", LOGIN, arch).expect("pulls");
        assert_eq!((found.digest(), found.layers.len()), (world.index, 2));
        world.assert_whole(&found);
        let config = std::fs::read(world.store.blob(&found.config.digest).expect("there")).expect("reads");
        assert_eq!(Config::parse(&config).expect("parses").platform.architecture, arch.debian());
    }
    // Another's word for the same.
    let name = format!("docker://{}/factory/pump:1", world.real.address);
    let raw = run(world.real.skopeo("inspect", &[""]).args(["--raw", &name]));
    assert_eq!(Digest::of(raw), world.index);
    let denied = world.refused("factory/pump:1", Some((USER, "wrong")));
    assert!(denied.contains("does not take the credentials for factory/pump"), "{denied}");
    let denied = world.refused("factory/pump:1", None);
    assert!(denied.contains("without a login") && denied.contains("docker login 127.0.0.1:"), "{denied}");
    let absent = world.refused("factory/pump:2", LOGIN);
    assert!(absent.contains("has no tag `2` of factory/pump"), "{absent}");
    let absent = world.refused("factory/tank:1", LOGIN);
    assert!(absent.contains("factory/tank"), "{absent}");
    // Its authority is none of the system's. On this machine too, that is no reason to go on without TLS.
    let mut options = world.real.options(LOGIN);
    options.authorities.clear();
    let registry = Registry::new(options).expect("registries");
    let error = registry.current(&world.reference("factory/pump:1")).expect_err("not trusted");
    assert!(format!("{error:#}").contains("its certificate is not trusted"), "{error:#}");
}

#[test]
fn an_image_behind_a_token_server() {
    let world = World::new(Door::Token, &["factory/pump:1", "public/pump:1"], true);
    let found = world.pull("factory/pump:1", LOGIN, Arch::X86_64).expect("pulls");
    assert_eq!(found.digest(), world.index);
    world.assert_whole(&found);
    // The first had ended, the second opened everything.
    assert_eq!(world.real.tokens(), 2);
    let registry = Registry::new(world.real.options(None)).expect("registries");
    let public = registry.current(&world.reference("public/pump:1")).expect("without a login");
    assert_eq!(public, world.index);
    let error = registry.current(&world.reference("factory/pump:1")).expect_err("refused");
    assert!(format!("{error:#}").contains("without a login"), "{error:#}");
    let error = world.refused("other/pump:1", Some((USER, "wrong")));
    assert!(error.contains("does not take the credentials for other/pump"), "{error}");
}

#[test]
fn the_same_image_out_of_files() {
    let world = World::new(Door::Basic, &["factory/pump:1"], false);
    let found = world.pull("factory/pump:1", LOGIN, Arch::X86_64).expect("pulls");
    let from = format!("docker://{}/factory/pump:1", world.real.address);
    let path = |name: &str| world.folder.path().join(name);
    let copy = |to: &str| {
        run(world.real.skopeo("copy", &["src"]).args(["--override-arch", "amd64", &from, to]));
    };
    copy(&format!("oci:{}:1", path("oci").display()));
    copy(&format!("oci-archive:{}:1", path("oci.tar").display()));
    copy(&format!("docker-archive:{}:factory/pump:1", path("docker.tar").display()));
    let reference: Reference = "factory/pump:1".parse().expect("a reference");
    let take = |file: &Path, arch| {
        let store = Store::open(Some(path("other"))).expect("a store");
        let taken = take(file, &reference, arch, &store)?;
        for blob in taken.blobs() {
            let bytes = std::fs::read(store.blob(&blob.digest).expect("in the store")).expect("reads");
            assert_eq!((Digest::of(&bytes), bytes.len() as u64), (blob.digest, blob.size));
        }
        Ok::<_, anyhow::Error>((taken, store))
    };
    for name in ["oci", "oci.tar"] {
        let (taken, _) = take(&path(name), Arch::X86_64).expect(name);
        assert_eq!(
            (&taken.manifest, &taken.config, &taken.layers),
            (&found.manifest, &found.config, &found.layers)
        );
    }
    // Another manifest, and layers that are not packed: the same files, by the diff ids of a configuration written anew.
    let (taken, store) = take(&path("docker.tar"), Arch::X86_64).expect("docker save");
    let ids = |store: &Store, taken: &Resolved| {
        let bytes = std::fs::read(store.blob(&taken.config.digest).expect("there")).expect("reads");
        Config::parse(&bytes).expect("parses").diff_ids
    };
    assert_eq!(ids(&store, &taken), ids(&world.store, &found));
    assert_eq!(taken.layers.iter().map(|layer| layer.digest).collect::<Vec<_>>(), ids(&store, &taken));
    let error = take(&path("docker.tar"), Arch::Aarch64).expect_err("another architecture");
    assert!(format!("{error:#}").contains("is for linux/amd64, not for aarch64"), "{error:#}");
}

#[test]
fn from_tls_there_is_no_way_on_without() {
    let folder = TempDir::new().expect("a folder");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let plain = format!("http://{}/x", listener.local_addr().expect("an address"));
    let (address, ca) = redirecting(folder.path(), format!("{plain}?signature={PASSWORD}"));
    let options =
        RegistryOptions { authorities: [(address.clone(), ca)].into(), ..RegistryOptions::default() };
    let registry = Registry::new(options).expect("registries");
    let reference: Reference = format!("{address}/factory/pump:1").parse().expect("a reference");
    let error = registry.current(&reference).expect_err("refused");
    let text = format!("{error:?}");
    assert!(
        text.contains(&format!("sends us on from https to {plain}")) && !text.contains(PASSWORD),
        "{text}"
    );
    listener.set_nonblocking(true).expect("changes");
    assert!(listener.accept().is_err(), "it was asked all the same");
}
