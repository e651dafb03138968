"""The one trainer: gradient steps on a network in torch, for distillation, fine-tuning, pruning and rounding.

What a stage that trains does::

    class MyParams(TrainParams): ...                       # params.py: learning_rate, steps, schedule ...
    corpus = read_corpus(source, params, seed)             # text.py: windows that train, windows that choose
    network = Network.load(source, params)                 # network.py: float32 master weights
    outcome = train(Setup(network.module, MyObjective(), corpus, params, ...))     # trainer.py
    network.write(context)                                 # in the checkpoint's own names, dtypes and layout

- An :class:`~.objective.Objective` is a torch module with ``loss(network, batch) -> Loss``: a sum over the
  batch's predicted tokens, which the trainer divides by their number. Parameters that it has are trained
  along with the network's and thrown away. ``selection`` is what points are chosen by.
- A :class:`~.hooks.Hook` sees every step: ``gradients`` before the optimizer, ``stepped`` behind it (to apply
  masks again, say); ``state`` and ``restore`` let an interrupted run go on exactly. What it holds of the
  network may train as shares (parallel.py): ``begins`` says what stands in the place of a parameter.
- ``Setup.first_result``: the first step whose weights may be the result, where those before it are another
  kind of network (not pruned as far as asked, say). Otherwise step 0, the weights as they came, counts too.
- A teacher's predictions and features are an objective as well: `distillation.py`.
- The network may have been changed before: modules wrapped, parameters added; all that ask for a gradient are
  trained. Behind ``train`` its weights are those of the best point.
"""
