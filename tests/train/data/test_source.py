from atrous.train import Textures
from atrous.train.data.source import Chosen, Splits, checked


def test_chosen_pairs_are_those_of_the_source():
    source = Textures("val", 4, (16, 16))
    some = Chosen(source, [3, 1])
    assert (len(some), some.name(0), some.classes, some.channels) == (2, "val mosaic 3", source.classes, 1)
    assert (some[1][0] == source[1][0]).all()


def test_a_source_without_fault_comes_back_itself():
    source = Textures("val", 2, (16, 16))
    assert checked(source, "val", skip_bad=True) is source
    assert Splits(source, source).test is None
