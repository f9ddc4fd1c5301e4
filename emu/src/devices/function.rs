//! What a function is: its requester id, what stands between it and its unit, its capabilities, its manners.

use crate::request::SourceId;

/// Names a function of a machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FunctionId(pub(crate) usize);

/// The place in the hierarchy (device/port type of the PCI Express capability), with the buses behind a bridge: secondary,
/// subordinate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// PCI Express endpoint.
    Endpoint,
    /// Root-complex integrated endpoint.
    Integrated,
    /// Root port.
    RootPort {
        /// The bus right behind it.
        secondary: u8,
        /// The last bus behind it.
        subordinate: u8,
    },
    /// Upstream port of a switch.
    Upstream {
        /// The bus right behind it.
        secondary: u8,
        /// The last bus behind it.
        subordinate: u8,
    },
    /// Downstream port of a switch.
    Downstream {
        /// The bus right behind it.
        secondary: u8,
        /// The last bus behind it.
        subordinate: u8,
    },
    /// Bridge from PCI Express to conventional PCI.
    ToConventional {
        /// The bus right behind it.
        secondary: u8,
        /// The last bus behind it.
        subordinate: u8,
    },
    /// A conventional PCI function.
    Conventional,
    /// A bridge between conventional buses.
    ConventionalBridge {
        /// The bus right behind it.
        secondary: u8,
        /// The last bus behind it.
        subordinate: u8,
    },
    /// Something that asks and has no configuration space: an I/O APIC, a timer.
    Hidden,
}

impl Form {
    /// Secondary and subordinate bus of a bridge.
    pub fn buses(self) -> Option<(u8, u8)> {
        match self {
            Form::RootPort { secondary, subordinate }
            | Form::Upstream { secondary, subordinate }
            | Form::Downstream { secondary, subordinate }
            | Form::ToConventional { secondary, subordinate }
            | Form::ConventionalBridge { secondary, subordinate } => Some((secondary, subordinate)),
            Form::Endpoint | Form::Integrated | Form::Conventional | Form::Hidden => None,
        }
    }
    /// Device/port type of the PCI Express capability.
    pub(crate) fn express(self) -> Option<u8> {
        match self {
            Form::Endpoint => Some(0),
            Form::RootPort { .. } => Some(4),
            Form::Upstream { .. } => Some(5),
            Form::Downstream { .. } => Some(6),
            Form::ToConventional { .. } => Some(7),
            Form::Integrated => Some(9),
            Form::Conventional | Form::ConventionalBridge { .. } | Form::Hidden => None,
        }
    }
}

/// Under which requester id a function's requests reach the unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Alias {
    /// Its own.
    #[default]
    None,
    /// A bridge takes ownership of all of them, with this id.
    Always(SourceId),
    /// A bridge takes ownership of some of them.
    Sometimes(SourceId),
}

/// The ATS capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ats {
    /// Invalidate queue depth; 0 means 32.
    pub depth: u8,
    /// Untranslated addresses are page-aligned.
    pub aligned: bool,
    /// The function heeds the global bit of invalidation requests.
    pub global: bool,
}

/// The page-request capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pri {
    /// Outstanding page requests that it can have.
    pub capacity: u32,
    /// It wants the PASID in responses to requests that had one.
    pub pasid_required: bool,
}

/// The PASID capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PasidCapability {
    /// Bits of its PASIDs.
    pub width: u8,
    /// It can ask to execute.
    pub execute: bool,
    /// It can ask as a privileged entity.
    pub privileged: bool,
}

/// The SR-IOV capability of a physical function whose virtual functions are on. These are functions of their own, with
/// [`Function::physical`] set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Virtuals {
    /// How many there are.
    pub number: u16,
    /// Steps of source ids from the physical function to the first.
    pub first: u16,
    /// Steps from one to the next.
    pub stride: u16,
    /// Their device id.
    pub device: u16,
}

/// How a function answers invalidation requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Answers {
    /// As soon as it is asked.
    #[default]
    AtOnce,
    /// After so many nanoseconds; its entries stay until then.
    After(u64),
    /// At random within so many nanoseconds, so that answers overtake each other.
    Within(u64),
    /// Never.
    Never,
}

/// How a function behaves. The default is as it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Manner {
    /// How it answers invalidation requests.
    pub answers: Answers,
    /// It keeps what it was told to forget, and says that it has forgotten it.
    pub keeps: bool,
    /// At each step of the machine it sends so many page requests, whatever it was allotted.
    pub flood: u32,
    /// It takes no note of page-group responses.
    pub deaf: bool,
    /// At each step it reads so many times from translated addresses that nobody gave it.
    pub wild: u32,
    /// It does as it likes whatever its enable bits say.
    pub unruly: bool,
}

/// A function: something that sends requests, or a bridge that others stand behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its id.
    pub source: SourceId,
    /// The unit that its requests reach; where there is no such unit they reach memory as they are.
    pub unit: usize,
    /// What a bridge on the way makes of its id.
    pub alias: Alias,
    /// What it is.
    pub form: Form,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class code: class, subclass, interface.
    pub class: u32,
    /// Bus mastering is on from the start, as firmware may leave it.
    pub master: bool,
    /// It has the MSI capability.
    pub msi: bool,
    /// End-to-end TLP prefixes, hence PASIDs, pass through it.
    pub prefixes: bool,
    /// It has the ATS capability.
    pub ats: Option<Ats>,
    /// It has the page-request capability.
    pub pri: Option<Pri>,
    /// It has the PASID capability.
    pub pasid: Option<PasidCapability>,
    /// It has the ACS capability, with these bits.
    pub acs: Option<u16>,
    /// It has the SR-IOV capability, and virtual functions.
    pub virtuals: Option<Virtuals>,
    /// It is a virtual function of this one: it answers at no vendor and device id.
    pub physical: Option<SourceId>,
    /// How it behaves.
    pub manner: Manner,
}

impl Function {
    /// An integrated endpoint with bus mastering on, MSI, and nothing else.
    pub fn new(source: SourceId, unit: usize) -> Self {
        Function {
            source,
            unit,
            alias: Alias::None,
            form: Form::Integrated,
            vendor: 0x1234,
            device: 0x11e8,
            class: 0xff_0000,
            master: true,
            msi: true,
            prefixes: true,
            ats: None,
            pri: None,
            pasid: None,
            acs: None,
            virtuals: None,
            physical: None,
            manner: Manner::default(),
        }
    }
    /// A bridge or port.
    pub fn bridge(source: SourceId, unit: usize, form: Form) -> Self {
        Function { form, class: 0x06_0400, ..Function::new(source, unit) }
    }
    /// The same, in another place.
    pub fn of(self, form: Form) -> Self {
        Function { form, ..self }
    }
    /// The same behind a bridge that puts its own id in place of the function's.
    pub fn behind(self, alias: SourceId) -> Self {
        Function { alias: Alias::Always(alias), ..self }
    }
    /// The same with ATS: depth 32, page-aligned, global invalidations.
    pub fn with_ats(self) -> Self {
        Function { ats: Some(Ats { depth: 0, aligned: true, global: true }), ..self }
    }
    /// The same with page requests.
    pub fn with_pri(self, capacity: u32) -> Self {
        Function { pri: Some(Pri { capacity, pasid_required: true }), ..self }
    }
    /// The same with PASIDs.
    pub fn with_pasid(self, width: u8) -> Self {
        Function { pasid: Some(PasidCapability { width, execute: false, privileged: true }), ..self }
    }
    /// The same with the ACS capability: bits as in its register.
    pub fn with_acs(self, bits: u16) -> Self {
        Function { acs: Some(bits), ..self }
    }
    /// The same with virtual functions.
    pub fn with_virtuals(self, virtuals: Virtuals) -> Self {
        Function { virtuals: Some(virtuals), ..self }
    }
    /// The same as a virtual function.
    pub fn virtual_of(self, physical: SourceId) -> Self {
        Function { physical: Some(physical), ..self }
    }
    /// The same with other manners.
    pub fn with_manner(self, manner: Manner) -> Self {
        Function { manner, ..self }
    }
}
