//! The engines that this process can run itself: those of the drivers, the same code.

use vgem_driver::local::Local;

/// Devices that there may be an engine of here, in the order in which they are measured.
pub(crate) const DEVICES: [&str; 3] = ["copy", "sec", "zip"];

/// The engine of a device, if this program was built with it.
pub(crate) fn of(device: &str) -> Option<Local> {
    match device {
        #[cfg(feature = "copy")]
        "copy" => Some(Local::new(vgem_driver_copy::CopyEngine)),
        #[cfg(feature = "zip")]
        "zip" => Some(Local::new(vgem_driver_zip::ZipEngine::new(&vgem_driver::Options::default()))),
        #[cfg(feature = "sec")]
        "sec" => Some(Local::new(vgem_driver_sec::SecEngine::new(&vgem_driver::Options::default()))),
        _ => None,
    }
}
