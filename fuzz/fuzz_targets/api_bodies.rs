//! Bodies of API requests: refused, or values that are written and read as themselves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scp_api::{local, v1};
use serde::{Serialize, de::DeserializeOwned};

fn body<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let again = serde_json::to_vec(&value).expect("what was read can be written");
        let twice = serde_json::from_slice::<T>(&again).expect("what was written can be read");
        assert_eq!(again, serde_json::to_vec(&twice).expect("it was written before"));
    }
}

fuzz_target!(|bytes: &[u8]| {
    body::<v1::VmCreate>(bytes);
    body::<v1::FlavorCreate>(bytes);
    body::<v1::KeypairCreate>(bytes);
    body::<v1::JoinTokenCreate>(bytes);
    body::<v1::DepartmentCreate>(bytes);
    body::<v1::QuotaSet>(bytes);
    body::<v1::TokenRequest>(bytes);
    body::<local::LocalInit>(bytes);
    body::<local::LocalJoin>(bytes);
});
