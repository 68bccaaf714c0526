//! libvirt's own events, through its C interface: the `virt` crate has no safe wrapper for them.
//!
//! One thread of the process runs libvirt's event loop for all connections. Callbacks do nothing but
//! hand an id over to a bounded queue; what became of the domain is then read like any other fact.
//! A full queue drops the hint: the next observation finds the same.

use std::{
    ffi::{c_int, c_void},
    sync::OnceLock,
};

use scp_model::VmId;
use tokio::sync::mpsc;
use uuid::Uuid;
use virt::{connect::Connect, error::Error};
use virt_sys as sys;

/// Something happened at libvirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// A domain's state changed.
    Domain(VmId),
    /// The connection ended: libvirtd stopped or hangs.
    Closed,
}

/// Starts the event loop once; before the first connection, as libvirt demands.
pub(super) fn start_loop() -> Result<(), String> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            virt::error::clear_error_callback();
            // SAFETY: takes no arguments; called once, before any connection is opened.
            #[allow(unsafe_code)]
            let registered = unsafe { sys::virEventRegisterDefaultImpl() };
            if registered < 0 {
                return Err(Error::last_error().to_string());
            }
            let run = || {
                loop {
                    // SAFETY: takes no arguments; this thread is the only one that runs the loop.
                    #[allow(unsafe_code)]
                    let ran = unsafe { sys::virEventRunDefaultImpl() };
                    if ran < 0 {
                        tracing::error!(error = %Error::last_error(), "libvirt's event loop failed");
                    }
                }
            };
            let spawned = std::thread::Builder::new().name("libvirt-events".into()).spawn(run);
            spawned.map(drop).map_err(|error| error.to_string())
        })
        .clone()
}

/// The callbacks of one connection; they end with it.
pub(super) struct Registration {
    lifecycle: c_int,
}

/// Asks a connection for its events.
pub(super) fn register(connect: &Connect, wakes: &mpsc::Sender<Wake>) -> Result<Registration, Error> {
    let opaque = || Box::into_raw(Box::new(wakes.clone())).cast::<c_void>();
    let domain_opaque = opaque();
    let typed: sys::virConnectDomainEventCallback = Some(lifecycle);
    // SAFETY: libvirt calls a callback of this id with the signature of `lifecycle`; its interface
    // stores all of them as one generic type and wants exactly this cast (VIR_DOMAIN_EVENT_CALLBACK).
    #[allow(unsafe_code)]
    let callback: sys::virConnectDomainEventGenericCallback = unsafe { std::mem::transmute(typed) };
    let id = sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE as c_int;
    // SAFETY: the connection is open; `domain_opaque` is ours and is freed by `free` exactly once, when
    // the callback is deregistered, or here when it was never registered.
    #[allow(unsafe_code)]
    let lifecycle = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connect.as_ptr(),
            std::ptr::null_mut(),
            id,
            callback,
            domain_opaque,
            Some(free),
        )
    };
    if lifecycle < 0 {
        let error = Error::last_error();
        // SAFETY: libvirt did not take it, so it is still ours.
        #[allow(unsafe_code)]
        unsafe {
            free(domain_opaque);
        }
        return Err(error);
    }
    let close_opaque = opaque();
    // SAFETY: as above.
    #[allow(unsafe_code)]
    let registered = unsafe {
        sys::virConnectRegisterCloseCallback(connect.as_ptr(), Some(closed), close_opaque, Some(free))
    };
    if registered < 0 {
        let error = Error::last_error();
        // SAFETY: libvirt did not take it, so it is still ours.
        #[allow(unsafe_code)]
        unsafe {
            free(close_opaque);
        }
        deregister(connect, &Registration { lifecycle });
        return Err(error);
    }
    Ok(Registration { lifecycle })
}

/// Ends the callbacks; the connection can be closed afterwards. Failure is of no use to anyone: the
/// connection is given up anyway.
pub(super) fn deregister(connect: &Connect, registration: &Registration) {
    // SAFETY: the connection is still open, and the id is one that it gave out.
    #[allow(unsafe_code)]
    unsafe {
        sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), registration.lifecycle);
        sys::virConnectUnregisterCloseCallback(connect.as_ptr(), Some(closed));
    }
}

// SAFETY (of all three): libvirt calls them with the pointer that `register` gave it, which stays valid
// until `free`; `free` is called once, after the last callback. None of them unwinds: they only copy an
// id and try to send it.
#[allow(unsafe_code)]
unsafe extern "C" fn lifecycle(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let mut uuid = [0u8; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: `domain` is valid for the time of the callback and the buffer has the demanded length.
    if unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) } == 0 {
        // SAFETY: see above.
        unsafe { send(opaque, Wake::Domain(VmId(Uuid::from_bytes(uuid)))) };
    }
    0
}

#[allow(unsafe_code)]
unsafe extern "C" fn closed(_connect: sys::virConnectPtr, _reason: c_int, opaque: *mut c_void) {
    // SAFETY: see above.
    unsafe { send(opaque, Wake::Closed) };
}

#[allow(unsafe_code)]
unsafe extern "C" fn free(opaque: *mut c_void) {
    // SAFETY: `register` made it with `Box::into_raw`, and libvirt gives it back once.
    drop(unsafe { Box::from_raw(opaque.cast::<mpsc::Sender<Wake>>()) });
}

#[allow(unsafe_code)]
unsafe fn send(opaque: *mut c_void, wake: Wake) {
    // SAFETY: see above; the box is only read.
    let wakes = unsafe { &*opaque.cast::<mpsc::Sender<Wake>>() };
    let _ = wakes.try_send(wake);
}
