//! Identity on disk, and the authority.

use std::os::unix::fs::PermissionsExt;

use ring::signature::{ED25519, UnparsedPublicKey};
use scp_mesh::{
    Authority, AuthorityError, CityKey, Identity, IdentityDirectory, IdentityError, NodeKey,
    authority::Subject,
    certificate::{self, Certificate},
};
use scp_model::{CityId, Timestamp};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::city::{BEGINNING, City, DAY_MS, name};

#[test]
fn a_key_is_made_once_and_kept_for_its_owner_only() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = IdentityDirectory::open(root.path().join("identity")).expect("it opens");
    let key = directory.load_or_create_key().expect("a key");
    assert_eq!(directory.load_or_create_key().expect("a key").id(), key.id());
    assert!(directory.load().expect("readable").is_none(), "of no city yet");
    let mode = |path: &str| {
        let file = root.path().join("identity").join(path);
        std::fs::metadata(file).expect("it is there").permissions().mode() & 0o777
    };
    assert_eq!((mode(""), mode("node.key")), (0o700, 0o600));

    let hash = Sha256::digest(key.public_key().0);
    assert_eq!(key.id().0, u64::from_be_bytes(hash[..8].try_into().expect("8 bytes")));
    let signature = key.sign(b"message");
    let public = UnparsedPublicKey::new(&ED25519, key.public_key().0);
    assert!(public.verify(b"message", &signature).is_ok());
    assert!(public.verify(b"massage", &signature).is_err());
}

#[test]
fn an_identity_is_stored_replaced_and_forgotten() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = IdentityDirectory::open(root.path()).expect("it opens");
    let city = City::new();
    let key = directory.load_or_create_key().expect("a key");
    let identity = city.issue(&key, BEGINNING);
    directory.store(&identity).expect("it is kept");
    let renewed = city.issue(&key, BEGINNING + DAY_MS);
    // A crash left a temporary file behind, readable by all.
    std::fs::write(root.path().join("node.pem.new"), "half a certif").expect("written");
    directory.store(&renewed).expect("it is replaced");
    directory.store_city_key(&city.city_key).expect("it is kept");
    let loaded = directory.load().expect("readable").expect("it is of a city");
    assert_eq!(loaded.certificate(), renewed.certificate());
    assert_eq!(directory.load_city_key().expect("readable"), Some(city.city_key));
    for entry in std::fs::read_dir(root.path()).expect("a directory") {
        let entry = entry.expect("readable");
        assert_eq!(entry.metadata().expect("readable").permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
    directory.forget_city().expect("it is forgotten");
    directory.forget_city().expect("twice does no harm");
    assert!(directory.load().expect("readable").is_none());
    assert_eq!(directory.load_city_key().expect("readable"), None);
    assert_eq!(directory.load_or_create_key().expect("a key").id(), key.id(), "the key stays");
}

#[test]
fn damaged_files_are_told_not_replaced() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = IdentityDirectory::open(root.path()).expect("it opens");
    std::fs::write(root.path().join("node.key"), [1, 2, 3]).expect("written");
    assert!(matches!(directory.load_or_create_key(), Err(IdentityError::Damaged { .. })));
    assert_eq!(std::fs::read(root.path().join("node.key")).expect("still there"), [1, 2, 3]);
    std::fs::write(root.path().join("city.key"), [0; 31]).expect("written");
    assert!(matches!(directory.load_city_key(), Err(IdentityError::Damaged { .. })));
}

#[test]
fn a_certificate_of_another_key_or_city_is_no_identity() {
    let (city, other) = (City::new(), City::new());
    let (key, another) = (NodeKey::generate().expect("a key"), NodeKey::generate().expect("a key"));
    let identity = city.issue(&key, BEGINNING);
    let ours = city.authority.certificate_pem();
    let with = |key: NodeKey, authority: &str| Identity::new(key, identity.certificate_pem(), authority);
    assert!(matches!(with(another, ours), Err(IdentityError::WrongKey)));
    let foreign = with(key.clone(), other.authority.certificate_pem());
    assert!(matches!(foreign, Err(IdentityError::Certificate(certificate::CertificateError::Foreign))));
    assert!(Identity::new(key, ours, ours).is_err(), "the authority is no node");
}

#[test]
fn the_authority_is_sealed_for_its_city_and_key_only() {
    let city = City::new();
    let (authority, id) = (&city.authority, city.authority.city());
    let sealed = authority.seal(&city.city_key).expect("sealed");
    assert_ne!(sealed, authority.seal(&city.city_key).expect("sealed"), "a new nonce each time");
    let open = |city_id, sealed: &[u8], key: &CityKey| {
        Authority::unseal(city_id, authority.certificate_pem(), sealed, key)
    };
    let opened = open(id, &sealed, &city.city_key).expect("it opens");
    assert_eq!(opened.fingerprint(), authority.fingerprint());
    let key = NodeKey::generate().expect("a key");
    let subject = Subject { public_key: key.public_key(), name: name("n"), addresses: vec![] };
    let certificate = opened.issue(&subject, Timestamp(BEGINNING)).expect("issued");
    assert!(Identity::new(key, &certificate, authority.certificate_pem()).is_ok());

    let wrong = CityKey::generate().expect("randomness");
    assert_eq!(open(id, &sealed, &wrong).err(), Some(AuthorityError::Sealed));
    assert_eq!(open(CityId::from_u128(1), &sealed, &city.city_key).err(), Some(AuthorityError::Sealed));
    for at in 0..sealed.len() {
        let mut flipped = sealed.clone();
        flipped[at] ^= 1;
        assert_eq!(open(id, &flipped, &city.city_key).err(), Some(AuthorityError::Sealed));
        assert_eq!(open(id, &sealed[..at], &city.city_key).err(), Some(AuthorityError::Sealed));
    }
    let another = City::new();
    let mixed = Authority::unseal(id, another.authority.certificate_pem(), &sealed, &city.city_key);
    assert_eq!(mixed.err(), Some(AuthorityError::Mismatch));
}

#[test]
fn a_node_certificate_says_what_https_clients_need_and_lasts_seven_days() {
    let city = City::new();
    let key = NodeKey::generate().expect("a key");
    let addresses = vec![[192, 0, 2, 7].into(), [127, 0, 0, 1].into()];
    let subject = Subject { public_key: key.public_key(), name: name("server-1"), addresses };
    let pem = city.authority.issue(&subject, Timestamp(BEGINNING)).expect("issued");
    let der = certificate::from_pem(&pem).expect("PEM");
    let facts = Certificate::parse(&der).expect("it parses");
    assert_eq!((facts.node(), facts.is_authority), (key.id(), false));
    assert!(facts.is_valid_at(Timestamp(BEGINNING + 7 * DAY_MS - 1)));
    assert!(!facts.is_valid_at(Timestamp(BEGINNING + 7 * DAY_MS)));
    assert!(facts.is_valid_at(Timestamp(BEGINNING - 60_000)), "a peer's clock may be behind");

    let (_, parsed) = X509Certificate::from_der(&der).expect("it parses");
    let names = parsed.subject_alternative_name().expect("well formed").expect("it is there");
    let dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let dns: Vec<_> = dns.collect();
    assert_eq!(dns, ["server-1", "localhost"]);
    let addresses = names.value.general_names.iter().filter(|name| matches!(name, GeneralName::IPAddress(_)));
    assert_eq!(addresses.count(), 3, "192.0.2.7, 127.0.0.1 once, ::1");
    let usage = parsed.extended_key_usage().expect("well formed").expect("it is there").value;
    assert!(usage.server_auth && usage.client_auth);
}

#[test]
fn certificates_of_equal_names_have_equal_lengths() {
    let city = City::new();
    let lengths: std::collections::BTreeSet<_> = (0..20)
        .map(|at| {
            let identity = city.issue(&NodeKey::generate().expect("a key"), BEGINNING + at * 1_000);
            identity.chain()[0].len()
        })
        .collect();
    assert_eq!(lengths.len(), 1, "{lengths:?}");
}
