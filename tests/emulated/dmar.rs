//! A DMAR table in memory (VT-d chapter 8).

use vtd::DeviceId;

/// What the table says.
#[derive(Default)]
pub struct Dmar {
    structures: Vec<u8>,
}

fn scopes(devices: &[DeviceId]) -> Vec<u8> {
    let scope = |d: &DeviceId| [1, 8, 0, 0, 0, d.source.bus(), d.source.device(), d.source.function()];
    devices.iter().flat_map(scope).collect()
}

impl Dmar {
    fn add(mut self, kind: u16, body: &[&[u8]]) -> Self {
        let body = body.concat();
        self.structures.extend([kind.to_le_bytes(), (body.len() as u16 + 4).to_le_bytes()].concat());
        self.structures.extend(body);
        self
    }

    /// A unit with 64 KiB of registers for `devices`, or for all others where there are none.
    pub fn unit(self, base: u64, devices: &[DeviceId]) -> Self {
        let all = u8::from(devices.is_empty());
        self.add(0, &[&[all, 4, 0, 0], &base.to_le_bytes(), &scopes(devices)])
    }

    /// A region reserved for a device.
    pub fn reserved(self, first: u64, last: u64, device: DeviceId) -> Self {
        self.add(1, &[&[0, 0, 0, 0], &first.to_le_bytes(), &last.to_le_bytes(), &scopes(&[device])])
    }

    /// Root ports that support ATS; all of them where none is named.
    pub fn ports(self, ports: &[DeviceId]) -> Self {
        let scope = |d: &DeviceId| [2, 8, 0, 0, 0, d.source.bus(), d.source.device(), d.source.function()];
        let scopes: Vec<u8> = ports.iter().flat_map(scope).collect();
        self.add(2, &[&[u8::from(ports.is_empty()), 0, 0, 0], &scopes])
    }

    /// What holds for an integrated device (SIDP).
    pub fn properties(self, device: DeviceId, flags: u8) -> Self {
        let [kind, length, _, rest @ ..] =
            [1, 8, 0, 0, 0, device.source.bus(), device.source.device(), device.source.function()];
        let scope = [[kind, length, flags].as_slice(), &rest].concat();
        self.add(6, &[&[0, 0, 0, 0], &scope])
    }

    /// The whole table, for a machine of so many address bits.
    pub fn bytes(&self, width: u8) -> Vec<u8> {
        let length = (48 + self.structures.len() as u32).to_le_bytes();
        let mut table = [b"DMAR".as_slice(), &length, &[1, 0], b"EMULAT", b"MACHINES"].concat();
        table.resize(48, 0);
        table[36] = width - 1;
        table.extend(&self.structures);
        table[9] = 0u8.wrapping_sub(table.iter().fold(0, |sum, b| sum.wrapping_add(*b)));
        table
    }
}
