//! Open files: whose they are, how long they live, what can be done to them.

use vgem_driver::{Engine as _, ParamValue};
use vgem_driver_blk::description::op;
use vgem_proto::error::ErrorCode;

use crate::rig::{AUTO, CREATE, CREATE_NEW, Object, READ, REQUIRE, Rig, WRITE, code, queue};

fn number(value: u64) -> [ParamValue<'static>; 1] {
    [ParamValue::Number(value)]
}

#[test]
fn a_file_number_of_another_queue_is_refused_like_one_that_does_not_exist() {
    let rig = Rig::new();
    let path = rig.file("f", &[1; 100]);
    let file = rig.open(queue(1), &path, WRITE, AUTO).expect("opened");
    let (object, other) = (Object::new(1, 100), queue(2));
    rig.open(other, &path, READ, AUTO).expect("opened");
    let params = [ParamValue::Number(file), ParamValue::Number(5)];
    assert_eq!(code(rig.read(other, file, 0, object.all())), ErrorCode::NotFound);
    assert_eq!(code(rig.write(other, file, 0, object.all())), ErrorCode::NotFound);
    assert_eq!(code(rig.append(other, file, object.all())), ErrorCode::NotFound);
    for op in [op::CLOSE, op::SYNC, op::TRUNCATE, op::STAT] {
        assert_eq!(code(rig.run(other, op, None, &params)), ErrorCode::NotFound, "operation {op}");
    }
    assert_eq!(code(rig.read(other, file + 1000, 0, object.all())), ErrorCode::NotFound);
    rig.read(queue(1), file, 0, object.all()).expect("its own queue still reads it");
}

#[test]
fn a_queue_of_the_same_place_and_another_life_does_not_inherit_files() {
    let rig = Rig::new();
    let file = rig.open(queue(1), &rig.file("f", &[1; 100]), READ, AUTO).expect("opened");
    let mut next = queue(1);
    next.generation += 1;
    assert_eq!(code(rig.run(next, op::STAT, None, &number(file))), ErrorCode::NotFound);
}

#[test]
fn closing_a_file_and_closing_its_queue_both_give_its_fds_back() {
    let rig = Rig::new();
    let path = rig.file("f", &[1; 100]);
    let links = || {
        let fds = std::fs::read_dir("/proc/self/fd").expect("our fds").flatten();
        fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path)).count()
    };
    let (first, _second) = [(); 2].map(|()| rig.open(queue(1), &path, READ, AUTO).expect("opened")).into();
    assert!(links() >= 2);
    rig.run(queue(1), op::CLOSE, None, &number(first)).expect("closed");
    assert_eq!(code(rig.run(queue(1), op::CLOSE, None, &number(first))), ErrorCode::NotFound);
    rig.blk.queue_closed(queue(1));
    assert_eq!(links(), 0);
}

#[test]
fn the_number_of_files_of_a_queue_is_bounded() {
    let rig = Rig::new();
    let path = rig.file("f", &[1; 100]);
    for _ in 0..256 {
        rig.open(queue(1), &path, READ, AUTO).expect("opened");
    }
    let failed = rig.open(queue(1), &path, READ, AUTO).expect_err("one too many");
    assert!(failed.code == ErrorCode::Exhausted && failed.text.contains("256"), "{failed}");
    rig.open(queue(2), &path, READ, AUTO).expect("another queue has files of its own");
}

#[test]
fn stat_truncate_and_sync_do_what_they_say() {
    let rig = Rig::new();
    let path = rig.file("f", &[1; 100]);
    let file = rig.open(queue(1), &path, WRITE, AUTO).expect("opened");
    let truncate =
        |len| rig.run(queue(1), op::TRUNCATE, None, &[ParamValue::Number(file), ParamValue::Number(len)]);
    assert_eq!(rig.run(queue(1), op::STAT, None, &number(file)).expect("told").value, 100);
    assert_eq!(truncate(40).expect("cut").value, 40);
    assert_eq!(truncate(5000).expect("extended").value, 5000);
    rig.run(queue(1), op::SYNC, None, &number(file)).expect("durable");
    assert_eq!(rig.run(queue(1), op::STAT, None, &number(file)).expect("told").value, 5000);
    assert_eq!(std::fs::read(&path).expect("the file"), [[1; 40].as_slice(), &[0; 4960]].concat());
}

#[test]
fn a_file_opened_for_reading_is_neither_written_nor_cut() {
    let rig = Rig::new();
    let path = rig.file("f", &[1; 100]);
    let file = rig.open(queue(1), &path, READ, AUTO).expect("opened");
    let params = [ParamValue::Number(file), ParamValue::Number(0)];
    assert_eq!(code(rig.write(queue(1), file, 0, Object::new(1, 10).all())), ErrorCode::NotPermitted);
    assert_eq!(code(rig.run(queue(1), op::TRUNCATE, None, &params)), ErrorCode::NotPermitted);
    assert_eq!(std::fs::read(&path).expect("the file"), [1; 100]);
}

#[test]
fn create_empties_what_exists_and_write_keeps_it() {
    let rig = Rig::new();
    let path = rig.file("f", &[1; 100]);
    rig.open(queue(1), &path, WRITE, AUTO).expect("opened");
    assert_eq!(std::fs::read(&path).expect("the file").len(), 100);
    rig.open(queue(1), &path, CREATE, AUTO).expect("opened");
    assert_eq!(std::fs::read(&path).expect("the file").len(), 0);
}

#[test]
fn create_new_makes_a_file_and_never_takes_one_that_exists() {
    let rig = Rig::new();
    rig.open(queue(1), &rig.path("new"), CREATE_NEW, AUTO).expect("created");
    let path = rig.file("old", &[1; 100]);
    assert_eq!(code(rig.open(queue(1), &path, CREATE_NEW, AUTO)), ErrorCode::NotPermitted);
    assert_eq!(std::fs::read(&path).expect("the file"), [1; 100]);
}

#[test]
fn requiring_direct_io_where_there_is_none_is_refused() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let rig = Rig::with(|setup| vgem_driver_blk::Setup { roots: vec![dir.path().to_owned()], ..setup });
    let path = dir.path().join("f");
    std::fs::write(&path, [1; 4096]).expect("written");
    assert_eq!(code(rig.open(queue(1), &path, READ, REQUIRE)), ErrorCode::Unsupported);
    rig.open(queue(1), &path, READ, AUTO).expect("opened");
}

#[test]
fn parameters_that_mean_nothing_are_refused() {
    let rig = Rig::new();
    let path = rig.file("f", &[1; 100]);
    assert_eq!(code(rig.open(queue(1), &path, 4, AUTO)), ErrorCode::BadParameter);
    assert_eq!(code(rig.open(queue(1), &path, READ, 3)), ErrorCode::BadParameter);
    assert_eq!(code(rig.run(queue(1), 99, None, &[])), ErrorCode::NoSuchOperation);
}

#[test]
fn the_description_survives_the_wire_and_numbers_operations_by_place() {
    let rig = Rig::with(|setup| vgem_driver_blk::Setup { executors: Some(3), ..setup });
    let description = rig.blk.description();
    assert_eq!(vgem_proto::describe::Description::decode(&description.encode()).as_ref(), Ok(&description));
    assert_eq!(description.executors, 3);
    for (place, operation) in description.operations.iter().enumerate() {
        assert_eq!(usize::from(operation.number), place, "{}", operation.name);
    }
}
